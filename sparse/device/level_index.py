"""LevelIndex: a scorer's summaries of all rows and layers of a level, where a device scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from specdec.cache.store import Level
from specdec.forward.prompt_queries import Queries
from specdec.sparse.scorers.base import Memo, Summary, packed


@runtime_checkable
class LevelScorer(Protocol):
    """A scorer that summarises and scores the rows of a level together, without the host."""

    @property
    def page_size(self) -> int: ...

    @property
    def key(self) -> str: ...

    def room(self, k: Tensor, pages: int) -> Summary:
        """Room for summaries of so many pages of each row of `k[R, Hkv, C, D]`."""

    def take_up(
        self, summary: Summary, k: Tensor, since: Tensor, length: Tensor, pages: int
    ) -> None:
        """Summarise, in place, the pages that became full between two lengths, `int32[R]`; at most
        `pages` of a row."""

    def scores(self, q: Tensor, summary: Summary, length: Tensor, row_map: Tensor) -> Tensor:
        """Scores `[B, Hkv, P]` of pages for `q[B, H, N, D]`, finite for pages below the length."""


@runtime_checkable
class RowScorer(Protocol):
    """A `LevelScorer` that has something to learn of each row before it takes up its pages."""

    def begin(self, summary: Summary, k: Tensor, row: int, memo: Memo) -> None:
        """Learn it, in place, from the row's keys `k[Hkv, n, D]` and what else is known of it."""


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
                self.summaries[layer] = self.scorer.room(keys, level.capacity // size)
                since, most = torch.zeros_like(since), level.capacity // size
            if isinstance(self.scorer, RowScorer):
                for row in (full > 0).logical_and(is_new | (self.covered == 0)).nonzero():
                    self._begin(layer, int(row), keys, int(full[row]), queries)
            length = level.lengths_on(device)
            self.scorer.take_up(self.summaries[layer], keys, since, length, most)
        if pages:
            self.covered.copy_(full)
            self.covered_on.copy_(full, non_blocking=True)

    def _begin(
        self,
        layer: int,
        row: int,
        keys: Tensor,
        count: int,
        queries: Sequence[Mapping[int, Queries]],
    ) -> None:
        assert isinstance(self.scorer, RowScorer)
        asked = queries[row].get(layer) if row < len(queries) else None
        memo = Memo(layer, None if asked is None else packed(asked.q, keys.shape[1]))
        self.scorer.begin(self.summaries[layer], keys[row, :, :count], row, memo)

    @property
    def tensors(self) -> list[Tensor]:
        """All that a pass reads here."""
        covered = [] if self.covered_on is None else [self.covered_on]
        return covered + [x for summary in self.summaries.values() for x in summary]
