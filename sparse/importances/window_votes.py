"""WindowVotes: what the last queries of a prompt look at (SnapKV)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from specdec.forward.plan import Needs
from specdec.sparse.maths.pooling import pooled
from specdec.sparse.text import Text


@dataclass(frozen=True)
class WindowVotes:
    """Attention summed over the window, mean over the group, smoothed: for each KV head.

    SnapKV (arXiv 2404.14469): I[h, t] = pool(mean over g of sum_i A[h, g, i, t]); the mean over the
    group is NVIDIA kvpress's, the paper chooses for each query head. pool: width of the mean.
    """

    window: int = 32
    pool: int = 5
    page_size = 1

    @property
    def needs(self) -> Needs:
        return Needs(self.window)

    def scores(self, text: Text) -> Tensor | None:
        """See `Importance`."""
        if text.window is None:
            return None
        attention = text.attention(text.window.last(self.window))
        return pooled(attention.sum(dim=2).mean(dim=1), self.pool)
