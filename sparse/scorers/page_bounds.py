"""PageBounds: an upper bound on every key's logit, per page (Quest, arXiv 2406.10774)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.kernels.selection.index_logits import index_logits
from specdec.kernels.selection.page_bounds import score_bounds, update_bounds
from specdec.sparse.scorers.base import IndexQuery, LevelPageScorer, Memo, Summary


@dataclass(frozen=True)
class PageBounds(LevelPageScorer):
    """Keeps the channelwise minimum and maximum of a page's keys.

    A page's logit is sum_i max(q_i min_i, q_i max_i): no key of the page has a larger one.
    """

    page_size: int = 16
    name: str = "page-bounds"

    def summarize(self, k: Tensor, memo: Memo) -> Tensor:
        """Minimum and maximum, `[Hkv, P, 2, D]`."""
        return torch.stack(k.aminmax(dim=2), dim=2)

    def index_query(self, q: Tensor, memo: Memo) -> IndexQuery:
        return IndexQuery(q, signed=True)

    def logits(self, q: Tensor, pages: Tensor, scale: float, memo: Memo) -> Tensor:
        """The bound of q.k over each page, times `scale`."""
        return index_logits(q, pages.flatten(2), scale=scale, signed=True)

    def allocate(self, k: Tensor, pages: int) -> Summary:
        return (k.new_empty(*k.shape[:2], pages, 2, k.shape[-1]),)

    def update(
        self, summary: Summary, k: Tensor, since: Tensor, length: Tensor, pages: int
    ) -> None:
        (bounds,) = summary
        update_bounds(bounds, k, since, length, page_size=self.page_size, pages=pages)

    def scores(self, q: Tensor, summary: Summary, length: Tensor, row_map: Tensor) -> Tensor:
        """The greatest bound over the queries, not a softmax: the kernel's."""
        (bounds,) = summary
        return score_bounds(q, bounds, length, row_map, page_size=self.page_size)
