"""ChunkMeans: a chunk stands for its mean key (TriForce, arXiv 2404.11912)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from specdec.kernels.chunk_scores import score_means, update_means
from specdec.kernels.index_logits import index_logits
from specdec.sparse.scorer import Memo


@dataclass(frozen=True)
class ChunkMeans:
    """Keeps the mean of a chunk's keys, as they are cached: after RoPE."""

    page_size: int = 8
    name: str = "chunk-means"

    @property
    def per_logit(self) -> int:
        return self.page_size

    @property
    def key(self) -> str:
        return f"{self.name}-{self.page_size}"

    def summarize(self, k: Tensor, memo: Memo) -> Tensor:
        """Mean key, `[Hkv, P, D]`."""
        return k.mean(dim=2)

    def question(self, q: Tensor, memo: Memo) -> tuple[Tensor, bool]:
        return q, False

    def logits(self, q: Tensor, pages: Tensor, scale: float, memo: Memo) -> Tensor:
        return index_logits(q, pages, scale=scale)

    def room(self, k: Tensor, pages: int) -> Tensor:
        return k.new_empty(*k.shape[:2], pages, k.shape[-1])

    def take_up(
        self, summary: Tensor, k: Tensor, since: Tensor, length: Tensor, pages: int
    ) -> None:
        update_means(summary, k, since, length, page_size=self.page_size, pages=pages)

    def scores(self, q: Tensor, summary: Tensor, length: Tensor, row_map: Tensor) -> Tensor:
        """The greatest score over the queries, not a softmax: the kernel's."""
        return score_means(q, summary, length, row_map, page_size=self.page_size)
