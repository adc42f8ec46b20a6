"""Scorer: how important each page of a level is for some queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

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


class IndexQuery(NamedTuple):
    """Queries `[Hkv, M, W]` whose products with summaries are logits: see `index_logits`.

    is_raw: they are the layer's own, so that a kernel can ask an index before it has made them.
    """

    q: Tensor
    signed: bool = False
    is_raw: bool = True


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

    @property
    def is_exact(self) -> bool:
        """Whether its logits are those of attention, which a pass that reads all keys has made."""

    @property
    def num_outliers(self) -> int:
        """Pages of each head that are read in any case and leave the others' competition, since
        their summaries say little of them: those of the least `likeness`."""

    def likeness(self, pages: Tensor) -> Tensor:
        """How well summaries stand for their pages, `[Hkv, P]`; asked for where there may be
        outliers."""

    @property
    def level(self) -> LevelScorer | None:
        """What summarises and scores whole levels in its way, on a device; None if nothing does."""

    def summarize(self, k: Tensor, memo: Memo) -> Tensor | None:
        """A summary `[Hkv, P, ...]` of the keys `k[Hkv, P, page_size, D]` of P full pages."""

    def index_query(self, q: Tensor, memo: Memo) -> IndexQuery | None:
        """What is multiplied with its summaries; None where its logits are something else."""

    def logits(self, q: Tensor, pages: Tensor, scale: float, memo: Memo) -> Tensor:
        """Logits `[Hkv, M, P * page_size / per_logit]` of queries `q[Hkv, M, D]`, M = group heads x
        tokens. Their softmax is the attention mass that each page, or token, is expected to get.

        pages: the summaries of all P pages; where there are none, their keys `[Hkv, P, page, D]`.
        """


class LevelScorer(Protocol):
    """A scorer that summarises and scores the rows of a level together, without the host."""

    @property
    def page_size(self) -> int: ...

    @property
    def key(self) -> str: ...

    @property
    def learns(self) -> bool: ...

    def allocate(self, k: Tensor, pages: int) -> Summary:
        """Room for summaries of so many pages of each row of `k[R, Hkv, C, D]`."""

    def init_row(self, summary: Summary, k: Tensor, row: int, memo: Memo) -> None:
        """Learn, in place, from a row's first keys `k[Hkv, n, D]` and what else is known of it; of
        a scorer that `learns`."""

    def update(
        self, summary: Summary, k: Tensor, since: Tensor, length: Tensor, pages: int
    ) -> None:
        """Summarise, in place, the pages that became full between two lengths, `int32[R]`; at most
        `pages` of a row."""

    def scores(self, q: Tensor, summary: Summary, length: Tensor, row_map: Tensor) -> Tensor:
        """Scores `[B, Hkv, P]` of pages for `q[B, H, N, D]`, finite for pages below the length."""


class PageScorer:
    """What most scorers have in common: a logit a page, by what the keys alone say."""

    page_size: int
    name: str
    learns = False
    is_exact = False
    num_outliers = 0

    def likeness(self, pages: Tensor) -> Tensor:
        return pages.new_ones(pages.shape[:2])

    @property
    def level(self) -> LevelScorer | None:
        return None

    @property
    def per_logit(self) -> int:
        return self.page_size

    @property
    def key(self) -> str:
        return f"{self.name}-{self.page_size}"

    def index_query(self, q: Tensor, memo: Memo) -> IndexQuery | None:
        return None


class LevelPageScorer(PageScorer, LevelScorer):
    """A scorer of pages that can score whole levels, too."""

    @property
    def level(self) -> LevelScorer:
        return self

    def init_row(self, summary: Summary, k: Tensor, row: int, memo: Memo) -> None:
        """Nothing to learn."""
        return None


def packed(q: Tensor, kv_heads: int) -> Tensor:
    """Queries `[H, n, D]` of one sequence as `[Hkv, G * n, D]`."""
    return q.reshape(kv_heads, -1, q.shape[-1])
