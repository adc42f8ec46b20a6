"""ChunkMeans: a chunk stands for its mean key (TriForce, arXiv 2404.11912)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

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
