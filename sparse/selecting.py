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
from specdec.kernels.selection.select_pages import importance, select_pages
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
    covered = tuple(n * size for n in pages)
    if len(indices) == 1 and policy.heads is None:
        ((index, keys),) = indices
        best = index.select(asked, keys, call.scale, per_page, **how)
    else:  # heads are compared by one softmax over the pages of all levels
        logits = torch.cat([x.logits(asked, keys, call.scale) for x, keys in indices], dim=-1)
        best = _best(policy, logits, per_page, how)
    entries = None
    if policy.residue is not None:
        k, v = _committed(pass_, call.layer, segments, covered)
        entries = policy.residue.entries(k, v, _kept(best, size, k.shape[1]))
    per_head = None if policy.heads is None else how["count"]
    return Selection(segments.round, best, covered, size, entries, per_head)


def _best(policy: Policy, logits: Tensor, per_page: int, how: dict[str, Any]) -> Tensor:
    """The best pages by their logits; -1 behind the last where heads keep different numbers."""
    if policy.heads is None:
        return select_pages(logits, per_page=per_page, **how)
    score = importance(logits, policy.votes, policy.pool, per_page)
    if how["last"]:  # what is kept anyway counts for every head alike
        score[:, -how["last"] :] = torch.inf
    score[:, : how["first"]] = torch.inf
    counts = policy.heads.counts(score, how["count"])
    widest = {**how, "count": int(counts.max())}
    best = select_pages(logits, per_page=per_page, **widest)
    rank = torch.arange(best.shape[1], device=best.device)
    return best.masked_fill(rank >= counts[:, None], -1)


def _committed(
    pass_: ForwardPass, layer: int, segments: Segments, covered: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Keys and values `[Hkv, S, D]` of the text that was selected from."""
    parts = [
        (level.k[layer][segments.rows[at], :, :count], level.v[layer][segments.rows[at], :, :count])  # type: ignore[index]
        for at, (level, count) in enumerate(zip(pass_.store.levels, covered, strict=False))
        if count
    ]
    k, v = (torch.cat(x, dim=1) for x in zip(*parts, strict=True))
    return k, v


def _kept(pages: Tensor, size: int, tokens: int) -> Tensor:
    """Which of `tokens` are in the selected pages, `bool[Hkv, tokens]`."""
    kept = torch.zeros(pages.shape[0], tokens // size + 1, dtype=torch.bool, device=pages.device)
    kept.scatter_(1, pages.where(pages >= 0, tokens // size), True)
    return kept[:, :-1].repeat_interleave(size, dim=1)


def settings(policy: Policy, segments: Segments, pages: int) -> dict[str, Any]:
    """How `select_pages` chooses among so many full pages of a sequence."""
    size = policy.scorer.page_size
    tail = sum(segments.lengths[: segments.readable]) - pages * size
    return {
        "votes": policy.votes,
        "pool": policy.pool,
        "all_heads": policy.sharing.all_heads,
        "count": min(pages, max(0, policy.limit(segments.total) - tail) // size),
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
    return None if q is None else packed(q.q, call.k.shape[1])
