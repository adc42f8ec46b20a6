"""judging: how much each page of a text matters to a policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from specdec.kernels.selection.select_pages import importance, select_pages
from specdec.sparse.page_index import PageIndex
from specdec.sparse.policy import Policy
from specdec.sparse.scorers.base import Memo, packed
from specdec.sparse.text import Text

OUTLIER = 2.0  # the score of pages that are read in any case: more than any mass

Indexed = tuple[PageIndex, Tensor]  # the index of a level's row, and the row's keys


def scores(policy: Policy, text: Text, own: Tensor | None = None) -> Tensor | None:
    """A score for each page and KV head, `[Hkv, P]`; None where nobody is there to judge.

    own: the layer's own queries `[H, n, D]`, which stand in where others were not kept.
    """
    if policy.importance is not None:
        found = policy.importance.scores(text)
    else:
        asked = _asking(policy, text, own)
        found = None
        if asked is not None:
            indices = _indices(policy, text)
            logits, per_page = _logits(text, indices, asked), _per_page(policy)
            outliers = _outliers(policy, indices)
            if outliers is not None:
                logits = logits.masked_fill(outliers[:, None].to(logits.device), -torch.inf)
            found = importance(logits, policy.votes, policy.pool, per_page)
            if outliers is not None:
                found = found.masked_fill(outliers.to(found.device), OUTLIER)
    if found is not None and policy.sharing.all_heads:
        found = found.amax(dim=0, keepdim=True).expand_as(found).contiguous()
    return found


def page_logits(policy: Policy, text: Text, q: Tensor) -> Tensor:
    """The scorer's logits `[Hkv, M, P]` of a text's pages for queries `q[H, n, D]`, M = group heads
    x n."""
    asked, found = _packed(text, q), []
    counts = (count // policy.page_size for count in text.covered if count)
    for (index, keys), pages in zip(_indices(policy, text), counts, strict=True):
        found.append(index.logits(asked, keys, text.scale)[..., :pages])
    return torch.cat(found, dim=-1)


def best_by_query(policy: Policy, text: Text, own: Tensor, how: dict[str, Any]) -> Tensor:
    """The best pages by the policy's scorer, `int64[Hkv, count]`, as `select_pages` says, which
    `how` is for; one level is chosen from without making scores first where an index can."""
    asked = _asking(policy, text, own)
    assert asked is not None
    per_page = _per_page(policy)
    how = {
        "votes": policy.votes, "pool": policy.pool, "all_heads": policy.sharing.all_heads, **how
    }  # fmt: skip
    indices = _indices(policy, text)
    if len(indices) == 1:
        ((index, keys),) = indices
        return index.select(asked, keys, text.scale, per_page, **how)
    return select_pages(_logits(text, indices, asked), per_page=per_page, **how)


def _per_page(policy: Policy) -> int:
    return policy.page_size // policy.scorer.per_logit


def _outliers(policy: Policy, indices: Sequence[Indexed]) -> Tensor | None:
    """Which pages are the outliers of all levels, `bool[Hkv, P]`; None where there are none."""
    count = policy.scorer.num_outliers
    if not count:
        return None
    found = []
    for index, _ in indices:
        assert index.summary is not None
        found.append(policy.scorer.likeness(index.summary[:, : index.pages]))
    likeness = torch.cat(found, dim=1)
    least = likeness.topk(min(count, likeness.shape[1]), dim=-1, largest=False).indices
    return torch.zeros_like(likeness, dtype=torch.bool).scatter_(1, least, True)


def read_bytes(policy: Policy, text: Text) -> int:
    """Bytes that judging the pages of a text has read: indices, or keys and values."""
    if policy.importance is not None:
        return text.read_bytes
    indices = _indices(policy, text)
    return text.read_bytes + sum(index.read_bytes(keys) for index, keys in indices)


def _logits(text: Text, indices: Sequence[Indexed], asked: Tensor) -> Tensor:
    """Those of the pages of all levels, `[Hkv, M, P]`: heads are compared by one softmax."""
    return torch.cat([index.logits(asked, keys, text.scale) for index, keys in indices], dim=-1)


def _indices(policy: Policy, text: Text) -> list[Indexed]:
    """The index of each level that has pages, brought up to date, and its keys."""
    found = []
    for level, rows, count in zip(
        text.store.levels, text.store.row_maps, text.covered, strict=False
    ):
        keys = level.k[text.layer]
        if keys is not None and count:
            row = int(rows[text.sequence])
            index = PageIndex.of(level, text.layer, row, policy.scorer)
            if index is None:
                asked = None if text.window is None else _packed(text, text.window.q)
                memo = Memo(text.layer, asked, scale=text.scale)
                index = PageIndex.add(level, text.layer, row, policy.scorer, memo)
            near = keys[row]
            is_whole = index.summary is not None and index.pages * policy.page_size >= count
            if level.is_remote(text.layer, text.device) and not is_whole:  # the keys are read
                near = level.bring(keys, text.layer, row, 0, count, text.device)
            index.update(near, count, text.device)
            found.append((index, near))
    return found


def _asking(policy: Policy, text: Text, own: Tensor | None) -> Tensor | None:
    """The queries that select, `[Hkv, M, D]`; a draft's own where there are no others yet."""
    q = own
    if policy.queries == "verified" and text.accepted is not None:
        q = text.accepted
    elif policy.queries != "draft" and text.window is not None:
        q = text.window.q
    return None if q is None else _packed(text, q)


def _packed(text: Text, q: Tensor) -> Tensor:
    keys = (level.k[text.layer] for level in text.store.levels)
    return packed(q, next(x.shape[1] for x in keys if x is not None))
