"""LowRankKeys: a prompt's keys before rotation by their strongest directions (ShadowKV)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from specdec.sparse.maths.low_rank import directions


@dataclass(frozen=True, eq=False)
class LowRankKeys:
    """Keys `[Hkv, S, D]` of all heads together as `a [S, r]` times `b [Hkv, D, r]`.

    ShadowKV (arXiv 2410.21465) takes the SVD of the keys before rotation, all heads side by side,
    X [S, Hkv D] = U S V, and keeps U and S V of rank 160. V is that of X's second moment, so
    a = X V^T and b = V here: the same product, with no matrix of S rows to factor.
    """

    a: Tensor
    b: Tensor

    @classmethod
    def of(cls, k: Tensor, rank: int) -> LowRankKeys:
        """From `k[Hkv, S, D]`, keys before rotation."""
        heads, tokens, dim = k.shape
        x = k.transpose(0, 1).reshape(tokens, heads * dim)
        basis = directions(x.mT @ x, min(rank, heads * dim))
        return cls(x @ basis, basis.view(heads, dim, -1))

    def keys(self, tokens: Tensor) -> Tensor:
        """The keys of `tokens: int64[Hkv, n]`, `[Hkv, n, D]`, before rotation."""
        return self.a[tokens] @ self.b.mT
