"""StaticSelections: what sequences read of a store's first level, where a graph finds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from specdec.cache.store import KVStore
from specdec.forward.plan import Selection
from specdec.kernels.selection.topk_pages import most_pages as width_of
from specdec.sparse.device.level_index import LevelIndex


class StaticSelections:
    """Selected pages, in memory that stays where it is, as static passes read them.

    selects: whether passes select for themselves; else they hold what was selected before. pages:
    `int32[sequences, Hkv, K]` for each anchor layer, best first, -1 behind the last. counts, since:
    `int32[sequences]`, how many of those that are held are read, and the first token that is read
    besides: all from there on are. index: what a scorer that selects keeps of the keys.
    """

    def __init__(
        self, store: KVStore, selects: bool, index: LevelIndex | None, device: torch.device
    ) -> None:
        self.selects, self.index = selects, index
        self.pages: dict[int, Tensor] = {}
        self.extents = torch.zeros(2, store.sequences, dtype=torch.int32, device=device)
        self.counts, self.since = self.extents
        self._held: dict[tuple[int, int], Selection] = {}

    def allocate(self, store: KVStore, anchors: Sequence[int], size: int, budget: int) -> None:
        """Room for the selections of layers that have none yet; their keys have been written."""
        level = store.levels[0]
        width = width_of(level.capacity // size, size, budget)
        for layer in anchors:
            keys = level.k[layer]
            if layer not in self.pages and keys is not None:
                shape = store.sequences, keys.shape[1], width
                self.pages[layer] = self.extents.new_full(shape, -1)

    def hold(self, standing: Mapping[tuple[int, int], Selection]) -> None:
        """Take over selections by (sequence, anchor layer), in place, where they are new."""
        for (sequence, layer), selection in standing.items():
            if self._held.get((sequence, layer)) is not selection and selection.pages is not None:
                self._held[sequence, layer] = selection
                self.pages[layer][sequence, :, : selection.pages.shape[1]] = selection.pages

    def forget(self, sequence: int) -> None:
        """The sequence is another text's from now on."""
        self._held = {key: held for key, held in self._held.items() if key[0] != sequence}

    def read(self, extents: Mapping[int, tuple[int, int]]) -> None:
        """Say, in place, how many pages of each sequence are read, and from where on all is."""
        host = torch.zeros(self.extents.shape, dtype=torch.int32)
        for sequence, extent in extents.items():
            host[:, sequence] = torch.tensor(extent)
        self.extents.copy_(host, non_blocking=True)

    def of(self, layer: int, sequences: Tensor) -> Tensor:
        """The pages that `sequences` read of an anchor's selections, `int32[B, Hkv, K]`."""
        pages = self.pages[layer][sequences]
        if self.selects:
            return pages
        rank = torch.arange(pages.shape[2], device=pages.device)
        return pages.masked_fill(rank >= self.counts[sequences, None, None], -1)

    @property
    def addresses(self) -> tuple[int, ...]:
        """Of all that a pass reads and writes here."""
        return tuple(x.data_ptr() for x in self.tensors)

    @property
    def tensors(self) -> list[Tensor]:
        """All that a pass reads and writes here."""
        kept = [] if self.index is None else self.index.tensors
        return [self.extents, *self.pages.values(), *kept]
