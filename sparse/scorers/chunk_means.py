"""ChunkMeans: a chunk stands for its mean key (TriForce, arXiv 2404.11912)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from specdec.kernels.selection.chunk_scores import score_means, update_means
from specdec.kernels.selection.index_logits import index_logits
from specdec.sparse.scorers.base import IndexQuery, LevelPageScorer, Memo, Summary


@dataclass(frozen=True)
class ChunkMeans(LevelPageScorer):
    """Keeps the mean of a chunk's keys, as they are cached: after RoPE."""

    page_size: int = 8
    name: str = "chunk-means"

    def summarize(self, k: Tensor, memo: Memo) -> Tensor:
        """Mean key, `[Hkv, P, D]`."""
        return k.mean(dim=2)

    def index_query(self, q: Tensor, memo: Memo) -> IndexQuery:
        return IndexQuery(q)

    def logits(self, q: Tensor, pages: Tensor, scale: float, memo: Memo) -> Tensor:
        return index_logits(q, pages, scale=scale)

    def allocate(self, k: Tensor, pages: int) -> Summary:
        return (k.new_empty(*k.shape[:2], pages, k.shape[-1]),)

    def update(
        self, summary: Summary, k: Tensor, since: Tensor, length: Tensor, pages: int
    ) -> None:
        (means,) = summary
        update_means(means, k, since, length, page_size=self.page_size, pages=pages)

    def scores(self, q: Tensor, summary: Summary, length: Tensor, row_map: Tensor) -> Tensor:
        """The greatest score over the queries, not a softmax: the kernel's."""
        (means,) = summary
        return score_means(q, means, length, row_map, page_size=self.page_size)
