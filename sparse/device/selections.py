"""PlacedChoices: what the sequences of a store read of its first level, where a graph finds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from specdec.cache.store import KVStore
from specdec.kernels.selection.topk_pages import places
from specdec.sparse.choose import Choice
from specdec.sparse.device.level_index import LevelIndex

STATE = "placed"  # the key of a model's choices in the state of its passes


class PlacedChoices:
    """Choices of pages, in memory that stays where it is, as placed passes read them.

    chooses: whether passes choose for themselves; else they hold what others chose. pages:
    `int32[sequences, Hkv, K]` for each anchor layer, best first, -1 behind the last. counts, since:
    `int32[sequences]`, how many of those that are held are read, and the first token that is read
    besides: all from there on are. index: what a scorer that chooses keeps of the keys.
    """

    def __init__(
        self, store: KVStore, chooses: bool, index: LevelIndex | None, device: torch.device
    ) -> None:
        self.chooses, self.index = chooses, index
        self.pages: dict[int, Tensor] = {}
        self.extents = torch.zeros(2, store.sequences, dtype=torch.int32, device=device)
        self.counts, self.since = self.extents
        self._held: dict[tuple[int, int], Choice] = {}

    def make_room(self, store: KVStore, anchors: Sequence[int], size: int, budget: int) -> None:
        """Room for the choices of layers that have none yet; their keys have been written."""
        level = store.levels[0]
        width = places(level.capacity // size, size, budget)
        for layer in anchors:
            keys = level.k[layer]
            if layer not in self.pages and keys is not None:
                shape = store.sequences, keys.shape[1], width
                self.pages[layer] = self.extents.new_full(shape, -1)

    def hold(self, standing: Mapping[tuple[int, int], Choice]) -> None:
        """Take over choices by (sequence, anchor layer), in place, where they are new."""
        for (sequence, layer), choice in standing.items():
            if self._held.get((sequence, layer)) is not choice and choice.pages is not None:
                self._held[sequence, layer] = choice
                self.pages[layer][sequence, :, : choice.pages.shape[1]] = choice.pages

    def read(self, extents: Mapping[int, tuple[int, int]]) -> None:
        """Say, in place, how many pages of each sequence are read, and from where on all is."""
        host = torch.zeros(self.extents.shape, dtype=torch.int32)
        for sequence, extent in extents.items():
            host[:, sequence] = torch.tensor(extent)
        self.extents.copy_(host, non_blocking=True)

    def of(self, layer: int, sequences: Tensor) -> Tensor:
        """The pages that `sequences` read of an anchor's choices, `int32[B, Hkv, K]`."""
        pages = self.pages[layer][sequences]
        if self.chooses:
            return pages
        place = torch.arange(pages.shape[2], device=pages.device)
        return pages.masked_fill(place >= self.counts[sequences, None, None], -1)

    @property
    def addresses(self) -> tuple[int, ...]:
        """Of all that a pass reads and writes here."""
        return tuple(x.data_ptr() for x in self.tensors)

    @property
    def tensors(self) -> list[Tensor]:
        """All that a pass reads and writes here."""
        kept = [] if self.index is None else self.index.tensors
        return [self.extents, *self.pages.values(), *kept]
