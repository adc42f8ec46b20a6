"""selecting: which pages of a sequence a layer, and those that share its selection, will read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.layout import Segments
from specdec.forward.plan import Selection
from specdec.forward.query_recorder import QueryRecorder
from specdec.kernels.selection.select_pages import select_pages
from specdec.sparse.page_index import PageIndex
from specdec.sparse.policy import Policy
from specdec.sparse.scorers.base import Memo, packed


def select(
    policy: Policy, pass_: ForwardPass, call: AttentionCall, b: int, segments: Segments
) -> Selection:
    """Score all full pages of the pass's sequence b and take the best, sinks before all others."""
    size, queries = policy.scorer.page_size, pass_.state.queries
    asked = _asking(policy, queries, call, b, segments)
    indices: list[tuple[PageIndex, Tensor]] = []
    pages = []
    for at in range(segments.readable):
        level, row, length = pass_.store.levels[at], segments.rows[at], segments.lengths[at]
        keys = level.k[call.layer]
        if keys is None or length < size:
            pages.append(0)
            continue
        index = PageIndex.of(level, call.layer, row, policy.scorer)
        if index is None:
            memo = Memo(call.layer, _recorded(queries, call, segments))
            index = PageIndex.add(level, call.layer, row, policy.scorer, memo)
        pages.append(index.update(keys[row], length, call.q.device))
        indices.append((index, keys[row]))
    if not indices:
        return Selection(segments.round)
    how = settings(policy, segments, sum(pages))
    per_page = size // policy.scorer.per_logit
    if len(indices) == 1:
        ((index, keys),) = indices
        best = index.select(asked, keys, call.scale, per_page, **how)
    else:  # heads are compared by one softmax over the pages of all levels
        logits = [index.logits(asked, keys, call.scale) for index, keys in indices]
        best = select_pages(torch.cat(logits, dim=-1), per_page=per_page, **how)
    return Selection(segments.round, best, tuple(n * size for n in pages), size)


def settings(policy: Policy, segments: Segments, pages: int) -> dict[str, Any]:
    """How `select_pages` chooses among so many full pages of a sequence."""
    size = policy.scorer.page_size
    tail = sum(segments.lengths[: segments.readable]) - pages * size
    return {
        "votes": policy.votes,
        "pool": policy.pool,
        "all_heads": policy.sharing.all_heads,
        "count": min(pages, max(0, policy.budget - tail) // size),
        "first": min(pages, -(-policy.sink // size)),
        "last": min(pages, -(-max(0, policy.recent - tail) // size)),
    }


def _asking(
    policy: Policy, kept: QueryRecorder | None, call: AttentionCall, b: int, segments: Segments
) -> Tensor:
    """The queries that select, `[Hkv, M, D]`; a draft's own where there are no others yet."""
    q: Tensor | None = None
    if kept is not None and policy.queries == "verified":
        accepted = kept.accepted(call.layer, segments.sequence)
        q = None if accepted is None else packed(accepted, call.k.shape[1])
    if policy.queries == "prompt" or (policy.queries == "verified" and q is None):
        q = _recorded(kept, call, segments)
    return packed(call.q[b], call.k.shape[1]) if q is None else q


def _recorded(kept: QueryRecorder | None, call: AttentionCall, segments: Segments) -> Tensor | None:
    """The last queries of the prompt, `[Hkv, M, D]`, if they were recorded."""
    if kept is None:
        return None
    q = kept.prompt.get((call.layer, segments.rows[0]))
    return None if q is None else packed(q, call.k.shape[1])
