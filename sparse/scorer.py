"""Scorer: how important each page of a level is for some queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass
class Memo:
    """What a scorer knows of one layer of one row besides its summaries.

    queries: the last ones of the prompt, `[Hkv, M, D]`, if they were recorded. channels: those that
    `LabelChannels` keeps, `int64[Hkv, channels]`, once it has chosen them.
    """

    layer: int = 0
    queries: Tensor | None = None
    channels: Tensor | None = None


class Scorer(Protocol):
    """Scores pages of `page_size` tokens; a page of one token scores tokens.

    `summarize` turns the keys of full pages into what is kept of them beside the store, once;
    `logits` then needs no keys. A scorer whose summary is None reads the keys themselves, which is
    exact and costs a full read.
    """

    @property
    def name(self) -> str: ...

    @property
    def page_size(self) -> int: ...

    @property
    def per_logit(self) -> int:
        """Tokens that one logit speaks for: a page, or 1 for a scorer that looks at every key."""

    @property
    def key(self) -> str:
        """Name of its summaries: scorers with the same key can share them."""

    def summarize(self, k: Tensor, memo: Memo) -> Tensor | None:
        """A summary `[Hkv, P, ...]` of the keys `k[Hkv, P, page_size, D]` of P full pages."""

    def logits(self, q: Tensor, pages: Tensor, scale: float, memo: Memo) -> Tensor:
        """Logits `[Hkv, M, P * page_size / per_logit]` of queries `q[Hkv, M, D]`, M = group heads x
        tokens. Their softmax is the attention mass that each page, or token, is expected to get.

        pages: the summaries of all P pages; where there are none, their keys `[Hkv, P, page, D]`.
        """


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
