"""LevelIndex: a scorer's summaries of all rows and layers of a level, where a device scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from specdec.cache.level import Level
from specdec.forward.prompt_queries import Queries
from specdec.sparse.scorers.base import LevelScorer, Memo, Summary, packed


class LevelIndex:
    """Summaries of the committed, full pages of a level (Invariant 2), at fixed addresses.

    `covered: int32[rows]` says how many tokens of each row they speak of; the store takes them back
    where it crops a row. `covered_on` is the device's copy.
    """

    def __init__(self, level: Level, scorer: LevelScorer) -> None:
        self.scorer = scorer
        self.covered = torch.zeros(level.rows, dtype=torch.int32)
        self.covered_on: Tensor | None = None
        self.is_stale = False  # whether the device's copy speaks of tokens that were taken back
        self.summaries: dict[int, Summary] = {}

    @classmethod
    def of(cls, level: Level, scorer: LevelScorer) -> LevelIndex:
        """The index of a level, kept beside it from the first call."""
        name = f"{scorer.key} of the level"
        known = level.beside.get(name)
        if known is None:
            known = level.beside[name] = cls(level, scorer)
        assert isinstance(known, cls)
        return known

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self.tensors)

    def crop(self, row: int, length: int) -> None:
        size = self.scorer.page_size
        self.covered[row] = min(int(self.covered[row]), length // size * size)
        self.is_stale = True

    def update(
        self,
        level: Level,
        layers: list[int],
        device: torch.device,
        queries: Sequence[Mapping[int, Queries]] = (),
    ) -> None:
        """Take up, in place, the pages of `layers` that are full now.

        queries: the last ones of the prompts, by row and layer, if they were recorded.
        """
        size = self.scorer.page_size
        full = level.length // size * size
        if self.covered_on is None:
            self.covered_on = self.covered.to(device, non_blocking=True, copy=True)
        elif self.is_stale:
            self.covered_on.copy_(self.covered, non_blocking=True)
        self.is_stale = False
        pages = int((full - self.covered).max()) // size
        for layer in sorted({*self.summaries, *layers} if pages else {*layers} - {*self.summaries}):
            keys, since, most = level.k[layer], self.covered_on, pages
            assert keys is not None
            is_new = layer not in self.summaries
            if is_new:
                self.summaries[layer] = self.scorer.allocate(keys, level.capacity // size)
                since, most = torch.zeros_like(since), level.capacity // size
            if self.scorer.learns:
                for row in (full > 0).logical_and(is_new | (self.covered == 0)).nonzero():
                    self._init_row(layer, int(row), keys, int(full[row]), queries)
            length = level.lengths_on(device)
            self.scorer.update(self.summaries[layer], keys, since, length, most)
        if pages:
            self.covered.copy_(full)
            self.covered_on.copy_(full, non_blocking=True)

    def _init_row(
        self,
        layer: int,
        row: int,
        keys: Tensor,
        count: int,
        queries: Sequence[Mapping[int, Queries]],
    ) -> None:
        asked = queries[row].get(layer) if row < len(queries) else None
        memo = Memo(layer, None if asked is None else packed(asked.q, keys.shape[1]))
        self.scorer.init_row(self.summaries[layer], keys[row, :, :count], row, memo)

    @property
    def tensors(self) -> list[Tensor]:
        """All that a pass reads here."""
        covered = [] if self.covered_on is None else [self.covered_on]
        return covered + [x for summary in self.summaries.values() for x in summary]
