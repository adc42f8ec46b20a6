"""Choosing: which pages of a sequence a layer and those that follow it will read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from specdec.forward_pass import AttentionCall, ForwardPass
from specdec.kernels.topk_pages import topk_pages
from specdec.sparse.layout import Place
from specdec.sparse.page_index import PageIndex
from specdec.sparse.scorer import Memo, importance

if TYPE_CHECKING:
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class Choice:
    """Pages `[Hkv, n]`, best first and counted through the levels, and the tokens per level that
    were there to choose from; what came later is read besides. pages None: everything is read."""

    round: int
    pages: Tensor | None = None
    covered: list[int] = field(default_factory=list)


def choose(
    view: SparseView, pass_: ForwardPass, call: AttentionCall, b: int, place: Place
) -> Choice:
    """Score all full pages of the pass's sequence b and take the best, sinks before all others."""
    size = view.scorer.page_size
    queries = _queries(view, pass_, call, b, place)
    parts, pages = [], []
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
        pages.append(index.update(keys[row], length))
        parts.append(index.logits(queries, keys[row], call.scale))
    if not parts:
        return Choice(place.round)
    logits = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
    score = importance(logits, view.votes, view.pool, size // view.scorer.per_logit)
    if view.sharing.all_heads:
        score = score.amax(dim=0, keepdim=True).expand_as(score).contiguous()
    total = sum(pages)
    tail = sum(place.lengths[: place.readable]) - total * size
    count = min(total, max(0, view.budget - tail) // size)
    best = topk_pages(
        score[None],
        torch.tensor([total], dtype=torch.int32),
        torch.tensor([tail], dtype=torch.int32),
        page_size=size,
        budget=view.budget,
        sink=view.sink,
        recent=view.recent,
    )[0, :, :count].long()
    return Choice(place.round, best, [n * size for n in pages])


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
