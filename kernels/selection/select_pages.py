"""select_pages: from the logits of pages to those that a pass reads."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.dispatch import dispatched
from specdec.kernels.selection.index_logits import index_logits
from specdec.kernels.selection.topk_pages import topk_pages


@dispatched
def select_pages(
    logits: Tensor,
    *,
    votes: str,
    pool: int,
    per_page: int,
    all_heads: bool,
    count: int,
    first: int,
    last: int,
) -> Tensor:
    """The `count` most important pages of each KV head, best first: `int64[Hkv, count]`.

    logits: `[Hkv, M, P * per_page]`; they become importances as `importance` says. The `first`
    pages come before all others, then the `last` ones. all_heads: one choice for all heads, by the
    best of their importances. Equal ones come in any order.
    """
    score = importance(logits, votes, pool, per_page)
    if all_heads:
        score = score.amax(dim=0, keepdim=True).expand_as(score).contiguous()
    return best_pages(score, count=count, first=first, last=last)


def best_pages(score: Tensor, *, count: int, first: int, last: int) -> Tensor:
    """The `count` pages of each head with the greatest finite `score[Hkv, P]`, which may be changed
    in place; the `first` pages come before all others, then the `last` ones."""
    pages, none = score.new_tensor([score.shape[1], 0], dtype=torch.int32).split(1)
    best = topk_pages(score[None], pages, none, page_size=1, budget=count, sink=first, recent=last)
    return best[0].long()


@dispatched
def select_by_index(
    q: Tensor,
    index: Tensor,
    *,
    scale: float,
    signed: bool,
    votes: str,
    pool: int,
    all_heads: bool,
    count: int,
    first: int,
    last: int,
) -> Tensor:
    """`select_pages` by the `index_logits` of queries, of which there is one for each page."""
    logits = index_logits.plain(q, index, scale=scale, signed=signed)
    return select_pages.plain(
        logits, votes=votes, pool=pool, per_page=1, all_heads=all_heads, count=count, first=first,
        last=last,
    )  # fmt: skip


def importance(logits: Tensor, votes: str, pool: int, per_page: int = 1) -> Tensor:
    """Logits `[Hkv, M, P * per_page]` as one importance `[Hkv, P]` per KV head.

    Selecting per KV head keeps the bytes of grouped-query attention down. Heads are compared by
    their softmax, not their raw logits; a page's mass is that of its `per_page` logits. votes
    "max": a page matters as much as to the query it matters most to; "mean": votes add up (SnapKV).
    pool: width of a moving average over neighbouring pages, so that what stands beside an important
    token is kept, too.
    """
    mass = torch.softmax(logits.float(), dim=-1)
    if votes == "max":
        score = _paged(mass, per_page).amax(dim=1)
    else:
        score = _paged(mass.mean(dim=1), per_page)
    if pool > 1:
        pages = score.shape[-1]
        score = torch.nn.functional.avg_pool1d(
            score, pool, stride=1, padding=pool // 2, count_include_pad=False
        )[:, :pages]
    return score


def _paged(mass: Tensor, per_page: int) -> Tensor:
    return mass if per_page == 1 else mass.unflatten(-1, (-1, per_page)).sum(dim=-1)
