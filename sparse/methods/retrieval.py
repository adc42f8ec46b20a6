"""RetrievalAttention's zones as RetroInfer has them (arXiv 2409.10516, 2505.02922)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Number, Whole
from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class Retrieval(PageBudget):
    """Three zones: sinks and recent tokens, always read; the best clusters, read until the budget
    is full; and the next best, each estimated by its mean key and the sum of its values.

    RetrievalAttention searches a graph of keys for each query, which pays for millions of keys in
    slow memory; its successor by the same authors, which its repository now holds, searches
    clusters, and so does this. That reads 1.8 % of the clusters, here what the budget holds, and
    clusters what is written for every 1,024 tokens, all of which it reads until then; with budgets
    of that size there would be nothing left to choose with. Estimates are not counted by the
    budget, and layers cannot share a choice.
    """

    paper = "2409.10516, 2505.02922"
    family = "selector"
    keeps = "clusters of keys, the best read and the next estimated"

    sink: int = 4
    refresh: str | int = "pass"
    estimated_share: float = option(
        0.232, "Share of all clusters that are estimated behind those that are read.", Number()
    )
    cluster_every: int = option(
        128, "Tokens that are written before they are clustered.", Whole(16, 8192)
    )

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.groupings.clusters import Clusters

        groups = Clusters(self.estimated_share, self.cluster_every)
        return self.policy("retrieval", target, groups=groups)
