"""PlacedChoices: what drafts read of a level, in memory that stays where it is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from specdec.kernels.topk_pages import places
from specdec.sparse.level_index import LevelIndex
from specdec.store import KVStore


class PlacedChoices:
    """What the sequences of a store read of its first level, written and read by placed passes.

    pages: `int32[sequences, Hkv, K]` for each anchor layer, best first, -1 behind the last; passes
    that do not choose read what the last one chose. since: `int32[sequences]`, the first token that
    is read besides: all from there on are. index: what a scorer keeps of the keys; None where it
    looks at the keys themselves.
    """

    def __init__(self, store: KVStore, index: LevelIndex | None, device: torch.device) -> None:
        self.index = index
        self.pages: dict[int, Tensor] = {}
        self.since = torch.zeros(store.sequences, dtype=torch.int32, device=device)

    def make_room(
        self, store: KVStore, anchors: Sequence[int], page_size: int, budget: int
    ) -> None:
        """Room for the choices of layers that have none yet; their keys have been written."""
        level = store.levels[0]
        width = places(level.capacity // page_size, page_size, budget)
        for layer in anchors:
            keys = level.k[layer]
            if layer not in self.pages and keys is not None:
                shape = store.sequences, keys.shape[1], width
                self.pages[layer] = self.since.new_full(shape, -1)

    def read_since(self, tokens: Tensor) -> None:
        """Read all from these tokens on, `int32[sequences]` of the host."""
        self.since.copy_(tokens, non_blocking=True)

    @property
    def addresses(self) -> tuple[Hashable, ...]:
        """Of all that a pass reads and writes here."""
        pages = tuple(x.data_ptr() for x in self.pages.values())
        return self.since.data_ptr(), pages, None if self.index is None else self.index.addresses
