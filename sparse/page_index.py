"""PageIndex: a scorer's summaries of one row's full pages, kept beside the store's level."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from specdec.cache.level import Level
from specdec.kernels.selection.select_pages import select_by_index, select_pages
from specdec.sparse.scorers.base import Memo, Scorer


class PageIndex:
    """Summaries of the committed, full pages of one row in one layer (Invariant 2).

    `update` summarises pages that have become full, `crop` forgets those that were taken back. The
    open page is never in it, so nothing that may still change is.
    """

    def __init__(self, scorer: Scorer, memo: Memo) -> None:
        self.scorer, self.memo = scorer, memo
        self.pages = 0
        self.summary: Tensor | None = None

    @classmethod
    def of(cls, level: Level, layer: int, row: int, scorer: Scorer) -> PageIndex | None:
        """The index of a row, if it has been made."""
        return _indices(level, scorer).of.get(layer, {}).get(row)

    @classmethod
    def add(cls, level: Level, layer: int, row: int, scorer: Scorer, memo: Memo) -> PageIndex:
        """A new, empty index of a row, kept beside the level."""
        index = _indices(level, scorer).of.setdefault(layer, {})[row] = cls(scorer, memo)
        return index

    @property
    def nbytes(self) -> int:
        """Bytes of the summaries."""
        return 0 if self.summary is None else self.summary[:, : self.pages].nbytes

    def read_bytes(self, keys: Tensor) -> int:
        """Bytes that choosing among the pages reads: the summaries, or the keys `[Hkv, capacity,
        D]` themselves where there are none."""
        if self.summary is not None:
            return self.nbytes
        return paged(keys, 0, self.pages, self.scorer.page_size).nbytes

    def crop(self, length: int) -> None:
        """Forget pages that are no longer full of committed tokens."""
        self.pages = min(self.pages, length // self.scorer.page_size)

    def update(self, keys: Tensor, length: int, device: torch.device) -> int:
        """Take up the pages that are full now: `keys[Hkv, capacity, D]`, `length` committed.

        Keys that lie elsewhere are summarised there; the summaries are kept on `device`. Returns
        how many pages the index covers.
        """
        full = length // self.scorer.page_size
        if full > self.pages:
            fresh = paged(keys, self.pages, full, self.scorer.page_size)
            summary = self.scorer.summarize(fresh, self.memo)
            if summary is not None:
                self._store(summary.to(device), full)
            self.pages = full
        return self.pages

    def logits(self, q: Tensor, keys: Tensor, scale: float) -> Tensor:
        """The scorer's logits over all pages for queries `q[Hkv, M, D]`."""
        if self.summary is not None:
            pages = self.summary[:, : self.pages]
        else:
            pages = paged(keys, 0, self.pages, self.scorer.page_size)
        return self.scorer.logits(q.to(pages.device), pages, scale, self.memo).to(q.device)

    def select(self, q: Tensor, keys: Tensor, scale: float, per_page: int, **how: Any) -> Tensor:
        """The best pages for queries `q[Hkv, M, D]`, as `select_pages` says, which `how` is for."""
        query = self.scorer.index_query(q, self.memo)
        if query is None or self.summary is None or q.is_cuda:  # there a kernel scores
            return select_pages(self.logits(q, keys, scale), per_page=per_page, **how)
        index = self.summary[:, : self.pages].flatten(2)
        return select_by_index(query.q, index, scale=scale, signed=query.signed, **how)

    def _store(self, summary: Tensor, full: int) -> None:
        """Append, in a buffer that doubles, so that growing costs O(1) per page."""
        if self.summary is None or self.summary.shape[1] < full:
            room = max(full, 2 * (0 if self.summary is None else self.summary.shape[1]))
            grown = summary.new_empty(summary.shape[0], room, *summary.shape[2:])
            if self.summary is not None:
                grown[:, : self.pages] = self.summary[:, : self.pages]
            self.summary = grown
        self.summary[:, self.pages : full] = summary


@dataclass
class PageIndices:
    """All that a scorer keeps beside a level, `of[layer][row]`: a `Beside`."""

    of: dict[int, dict[int, PageIndex]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(index.nbytes for rows in self.of.values() for index in rows.values())

    def crop(self, row: int, length: int) -> None:
        for rows in self.of.values():
            if not length:  # with what its scorer has learned of the text
                rows.pop(row, None)
            elif row in rows:
                rows[row].crop(length)


def _indices(level: Level, scorer: Scorer) -> PageIndices:
    known = level.beside.setdefault(scorer.key, PageIndices())
    assert isinstance(known, PageIndices)
    return known


def paged(keys: Tensor, first: int, last: int, page_size: int) -> Tensor:
    """Pages `first .. last` of `keys[Hkv, capacity, D]`: `[Hkv, last - first, page, D]`, a view."""
    return keys[:, first * page_size : last * page_size].unflatten(1, (last - first, page_size))
