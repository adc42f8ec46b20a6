"""SemanticVotes: only heads that retrieve meaning vote for what stays (CompressKV)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from specdec.sparse.maths.pooling import pooled


@dataclass(frozen=True)
class SemanticVotes:
    """The attention of a layer's `heads`, summed over the window, mean of the heads, pooled.

    CompressKV (arXiv 2508.02401): I_t = mean over the layer's semantic retrieval heads h of
    sum_i A[h, i, t]; window 8, mean of 5 neighbours, four heads a layer; the same choice for every
    KV head of the layer.
    """

    pool: int = 5

    def score(self, attention: Tensor, heads: Tensor) -> Tensor:
        """`[S]`. attention: `[Hkv, G, w, S]`; heads: of all query heads, `int64[n]`."""
        votes = attention.flatten(0, 1)[heads].sum(dim=1).mean(dim=0)
        return pooled(votes, self.pool)
