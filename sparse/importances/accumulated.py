"""AccumulatedMass: the attention that a token has had in all (H2O, arXiv 2306.14048)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from specdec.sparse.importances.base import Observed, Statistics, grown


@dataclass(frozen=True)
class AccumulatedMass:
    """score[h, t] = sum over all queries i and query heads g of the group of A[h, g, i, t].

    A is the softmax over everything. In the paper (its algorithm 1) it is the softmax over what was
    kept, which is all that an evicting cache has, and each query head has a cache of its own: here
    a KV head is chosen for once, by the sum over its group.
    """

    key: str = "accumulated"

    def begin(self, heads: int, like: Tensor) -> Statistics:
        return (like.new_zeros(heads, 0),)

    def update(self, statistics: Statistics, seen: Observed) -> Statistics:
        mass = seen.mass.sum(dim=(1, 2))
        return (grown(statistics[0], mass.shape[1]).add(mass.to(statistics[0].dtype)),)

    def scores(self, statistics: Statistics, length: int) -> Tensor:
        return statistics[0]
