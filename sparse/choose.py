"""Choosing: which pages of a sequence a layer and those that follow it will read."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specdec.forward.forward_pass import AttentionCall, ForwardPass
from specdec.kernels.selection.select_pages import select_pages
from specdec.sparse.page_index import PageIndex
from specdec.sparse.scorers.base import Memo
from specdec.sparse.sequence_places import Place

if TYPE_CHECKING:
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class Choice:
    """Pages `[Hkv, n]`, best first and counted through the levels, and the tokens per level that
    were there to choose from; what came later is read besides. pages None: everything is read."""

    round: int
    pages: Tensor | None = None
    covered: list[int] = field(default_factory=list)
    page_size: int = 1

    @property
    def covered_levels(self) -> list[tuple[int, int]]:
        """The levels that were chosen from, and how much of each was there."""
        return [(at, tokens) for at, tokens in enumerate(self.covered) if tokens]

    @cached_property
    def local(self) -> NDArray[np.int64]:
        """The pages as each of these levels counts them, `[levels, Hkv, n]`; -1 in all others."""
        assert self.pages is not None
        pages, offset, out = self.pages.numpy(), 0, []
        if len(self.covered_levels) == 1:
            return pages[None]
        for _, tokens in self.covered_levels:
            count = tokens // self.page_size
            mine = (pages >= offset) & (pages < offset + count)
            out.append(np.where(mine, pages - offset, -1))
            offset += count
        return np.stack(out)


def choose(
    view: SparseView, pass_: ForwardPass, call: AttentionCall, b: int, place: Place
) -> Choice:
    """Score all full pages of the pass's sequence b and take the best, sinks before all others."""
    size = view.scorer.page_size
    queries = _queries(view, pass_, call, b, place)
    indices: list[tuple[PageIndex, Tensor]] = []
    pages = []
    for at in range(place.readable):
        level, row, length = pass_.store.levels[at], place.rows[at], place.lengths[at]
        keys = level.k[call.layer]
        if keys is None or length < size:
            pages.append(0)
            continue
        index = PageIndex.of(level, call.layer, row, view.scorer)
        if index is None:
            memo = Memo(call.layer, _recorded(pass_, call, place))
            index = PageIndex.add(level, call.layer, row, view.scorer, memo)
        pages.append(index.update(keys[row], length, call.q.device))
        indices.append((index, keys[row]))
    if not indices:
        return Choice(place.round)
    how = settings(view, place, sum(pages))
    per_page = size // view.scorer.per_logit
    if len(indices) == 1:
        ((index, keys),) = indices
        best = index.select(queries, keys, call.scale, per_page, **how)
    else:  # heads are compared by one softmax over the pages of all levels
        logits = [index.logits(queries, keys, call.scale) for index, keys in indices]
        best = select_pages(torch.cat(logits, dim=-1), per_page=per_page, **how)
    return Choice(place.round, best, [n * size for n in pages], size)


def settings(view: SparseView, place: Place, pages: int) -> dict[str, Any]:
    """How `select_pages` chooses among so many full pages of a sequence."""
    size = view.scorer.page_size
    tail = sum(place.lengths[: place.readable]) - pages * size
    return {
        "votes": view.votes,
        "pool": view.pool,
        "all_heads": view.sharing.all_heads,
        "count": min(pages, max(0, view.budget - tail) // size),
        "first": min(pages, -(-view.sink // size)),
        "last": min(pages, -(-max(0, view.recent - tail) // size)),
    }


def _queries(
    view: SparseView, pass_: ForwardPass, call: AttentionCall, b: int, place: Place
) -> Tensor:
    """The queries that choose, `[Hkv, M, D]`; a draft's own where there are no others yet."""
    q: Tensor | None = None
    if pass_.recorder is not None and view.queries == "verified":
        accepted = pass_.recorder.accepted(call.layer, place.sequence)
        q = None if accepted is None else packed(accepted, call.k.shape[1])
    if view.queries == "prompt" or (view.queries == "verified" and q is None):
        q = _recorded(pass_, call, place)
    return packed(call.q[b], call.k.shape[1]) if q is None else q


def _recorded(pass_: ForwardPass, call: AttentionCall, place: Place) -> Tensor | None:
    """The last queries of the prompt, `[Hkv, M, D]`, if they were recorded."""
    if pass_.recorder is None:
        return None
    q = pass_.recorder.prompt.get((call.layer, place.rows[0]))
    return None if q is None else packed(q, call.k.shape[1])


def packed(q: Tensor, kv_heads: int) -> Tensor:
    """Queries `[H, n, D]` of one sequence as `[Hkv, G * n, D]`."""
    return q.reshape(kv_heads, -1, q.shape[-1])
