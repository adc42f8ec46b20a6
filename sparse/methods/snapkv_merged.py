"""SnapKV (arXiv 2404.14469), where means of neighbours stand for what is left out.

A mean of 32 tokens has the logarithm of their number added to its logit, as merged tokens have in
ToMe (arXiv 2210.09461): so equal neighbours lose nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class SnapKVMerged(PageBudget):
    """As `snapkv`; the budget does not count the means."""

    paper = "2404.14469, 2210.09461"
    family = "merging"
    keeps = "as snapkv, and means of the rest"

    refresh: str | int = "prompt"

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.residues.neighbour_means import NeighbourMeans
        from specdec.sparse.scorers.exact_mass import ExactMass

        return self.policy(
            "snapkv-merged", target, ExactMass(1), queries="prompt", votes="mean", pool=5,
            residue=NeighbourMeans(),
        )  # fmt: skip
