"""selecting: which pages of a sequence a layer, and those that share its selection, will read."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from specdec.cache.cached_tokens import CachedTokens
from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.layout import Segments
from specdec.forward.plan import Selection
from specdec.kernels.selection.select_pages import best_pages
from specdec.sparse.budgets.divided import tokens_of
from specdec.sparse.groupings.base import Grouping
from specdec.sparse.judging import OUTLIER, best_by_query, read_bytes, scores
from specdec.sparse.policy import Policy
from specdec.sparse.residues.base import Rest
from specdec.sparse.selecting_groups import grouped
from specdec.sparse.text import Text


def select(
    policy: Policy, pass_: ForwardPass, call: AttentionCall, b: int, segments: Segments
) -> Selection:
    """Judge all full pages of the pass's sequence b and take the best, sinks before all others."""
    text = _text(policy, pass_, call, segments)
    if policy.groups is not None:
        return _select_groups(policy, policy.groups, text, call, b, segments)
    if not text.length:
        return Selection(segments.round)
    chosen = _chosen(policy, pass_, call, call.q[b], segments, text)
    segments.reads.chose(call.layer, read_bytes(policy, text))
    return chosen


def _chosen(
    policy: Policy,
    pass_: ForwardPass,
    call: AttentionCall,
    own: Tensor,
    segments: Segments,
    text: Text,
) -> Selection:
    size = policy.page_size
    limit = policy.limit(segments.total)
    budget: int | Tensor = limit
    if policy.layers is not None:
        budget = tokens_of(
            policy.layers, limit, policy.selecting, pass_.state, text, segments.round,
            lambda other: scores(policy, replace(other, accepted=_accepted(pass_, other))),
        )  # fmt: skip
    mean = budget if isinstance(budget, int) else int(budget.float().mean())
    how = settings(policy, segments, text.length // size, mean)
    if policy.is_even and policy.importance is None and not policy.scorer.num_outliers:
        best = best_by_query(policy, text, own, how)
        return Selection(segments.round, best, text.covered, size)
    score = scores(policy, text, own)
    if score is None:
        return Selection(segments.round)
    counts = None
    if not isinstance(budget, int):  # divided among heads already
        tail = sum(segments.lengths[: segments.readable]) - text.length
        counts = ((budget - tail).clamp_min(0) // size).clamp_max(score.shape[1])
    forced = _forced(score, how)
    if policy.heads is not None:
        counts = policy.heads.counts(forced, how["count"], call.layer)
    best = _best(score.clone(), counts, how)  # it may be what an importance keeps
    per_head = None if counts is None else -(-int(counts.sum()) // len(counts))
    entries = None
    if policy.residue is not None:
        kept = _kept(best, size, text.length)
        each = forced.repeat_interleave(size, dim=1)
        entries = policy.residue.entries(Rest(text.k, text.v, kept, each, call.layer))
        if policy.residue.replaces:
            best, per_head = best[:, :0], None
    bound = None if policy.layers is None else mean
    is_bounded = policy.heads is None or policy.heads.is_bounded
    keys = None
    if policy.keys is not None:
        exact = forced.gather(1, best.clamp_min(0)) >= OUTLIER
        keys = policy.keys.of(pass_, call.layer, segments, exact)
    return Selection(
        segments.round, best, text.covered, size, entries, per_head, bound, is_bounded, keys
    )  # fmt: skip


def _select_groups(
    policy: Policy, grouping: Grouping, text: Text, call: AttentionCall, b: int, x: Segments
) -> Selection:
    """The tokens of the best groups; those of no group yet are read as what came since."""
    asked = grouped(grouping, text, x, call.q[b])
    covered = asked.text.covered
    if not asked.held:
        none = torch.empty(call.k.shape[1], 0, dtype=torch.int64, device=call.q.device)
        return Selection(x.round, none, covered)
    how = settings(policy, x, asked.text.length, policy.limit(x.total))
    chosen = grouping.choose(
        replace(asked, count=how["count"], first=how["first"], last=how["last"])
    )
    lines = sum(part.nbytes for held in asked.held for part in held)
    x.reads.chose(call.layer, lines + asked.text.read_bytes)
    return Selection(x.round, chosen.tokens, covered, 1, chosen.entries)


def settings(policy: Policy, segments: Segments, pages: int, budget: int) -> dict[str, int]:
    """How many of so many full pages of a sequence are chosen, and which of them in any case."""
    size = policy.page_size
    tail = sum(segments.lengths[: segments.readable]) - pages * size
    return {
        "count": min(pages, max(0, budget - tail) // size),
        "first": min(pages, -(-policy.sink // size)),
        "last": min(pages, -(-max(0, policy.recent - tail) // size)),
    }


def _text(policy: Policy, pass_: ForwardPass, call: AttentionCall, x: Segments) -> Text:
    """The full pages of the levels that are selected from."""
    size, store = policy.page_size, pass_.store
    covered = tuple(
        length // size * size if level.k[call.layer] is not None else 0
        for level, length in zip(store.levels[: x.readable], x.lengths, strict=False)
    )
    held, seen = pass_.state.held, x.sequence
    known = held[seen] if seen < len(held) else CachedTokens()
    text = Text(store, seen, call.layer, covered, call.q.device, call.scale, call.softcap, known)
    return replace(text, accepted=_accepted(pass_, text))


def _accepted(pass_: ForwardPass, text: Text) -> Tensor | None:
    """The last verification's queries in the text's layer, if they were kept."""
    kept = pass_.state.queries
    return None if kept is None else kept.accepted(text.layer, text.sequence)


def _forced(score: Tensor, how: dict[str, int]) -> Tensor:
    """The scores, with inf for what is kept anyway: it counts for every head alike."""
    forced = score.clone()
    if how["last"]:
        forced[:, -how["last"] :] = torch.inf
    forced[:, : how["first"]] = torch.inf
    return forced


def _best(score: Tensor, counts: Tensor | None, how: dict[str, int]) -> Tensor:
    """The best pages of each head; -1 behind the last where heads keep different numbers. The
    scores may be changed in place."""
    if counts is None:
        return best_pages(score, **how)
    best = best_pages(score, **{**how, "count": int(counts.max())})
    rank = torch.arange(best.shape[1], device=best.device)
    return best.masked_fill(rank >= counts.to(best.device)[:, None], -1)


def _kept(pages: Tensor, size: int, tokens: int) -> Tensor:
    """Which of `tokens` are in the selected pages, `bool[Hkv, tokens]`."""
    kept = torch.zeros(pages.shape[0], tokens // size + 1, dtype=torch.bool, device=pages.device)
    kept.scatter_(1, pages.where(pages >= 0, tokens // size), True)
    return kept[:, :-1].repeat_interleave(size, dim=1)
