"""Scorer: how important each page of a level is for some queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Summary = tuple[Tensor, ...]  # what a scorer keeps of all rows of a level in one layer


@dataclass
class Memo:
    """What a scorer knows of one layer of one row besides its summaries.

    queries: the last ones of the prompt, `[Hkv, M, D]`, if they were recorded. channels: those that
    `LabelChannels` keeps, `int64[Hkv, channels]`, once it has chosen them. scale: of the layer's
    logits. has_looked: `LookedAt` has told once which tokens take part.
    """

    layer: int = 0
    queries: Tensor | None = None
    channels: Tensor | None = None
    scale: float = 1.0
    has_looked: bool = False


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

    @property
    def learns(self) -> bool:
        """Whether it learns from the prompt's last queries before it summarises (`Memo`)."""

    def summarize(self, k: Tensor, memo: Memo) -> Tensor | None:
        """A summary `[Hkv, P, ...]` of the keys `k[Hkv, P, page_size, D]` of P full pages."""

    def question(self, q: Tensor, memo: Memo) -> tuple[Tensor, bool] | None:
        """Queries whose products with its summaries are the logits, and whether they are signed:
        the arguments of `index_logits`; None for a scorer whose logits are something else."""

    def logits(self, q: Tensor, pages: Tensor, scale: float, memo: Memo) -> Tensor:
        """Logits `[Hkv, M, P * page_size / per_logit]` of queries `q[Hkv, M, D]`, M = group heads x
        tokens. Their softmax is the attention mass that each page, or token, is expected to get.

        pages: the summaries of all P pages; where there are none, their keys `[Hkv, P, page, D]`.
        """


def packed(q: Tensor, kv_heads: int) -> Tensor:
    """Queries `[H, n, D]` of one sequence as `[Hkv, G * n, D]`."""
    return q.reshape(kv_heads, -1, q.shape[-1])
