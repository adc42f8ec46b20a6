"""KVMerger (arXiv 2407.08454): runs of similar neighbours merged, the most attended tokens kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import LayerRule, Number
from specdec.sparse.methods.page_budget import EndLayers, PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class KVMerger(PageBudget):
    """What the budget does not hold is merged: its entries are read besides.

    The kept tokens are those of `h2o`. The threshold 0.75 and the first and last two layers read
    whole are the paper's; without released code, `maths.merge_runs` says what is reconstructed.
    """

    paper = "2407.08454"
    family = "merging"
    keeps = "the most attended tokens, and the others in runs"

    dense: tuple[int, ...] | LayerRule = EndLayers(2, 2)
    merge_cosine: float = option(
        0.75, "Cosine of neighbouring keys from which on they are merged.", Number(0.0, 1.0)
    )
    merged_share: float = option(
        0.25, "Entries at most, as a share of the tokens that are merged.", Number(0.01, 1.0)
    )

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.importances.accumulated import AccumulatedMass
        from specdec.sparse.importances.running import Running
        from specdec.sparse.residues.merged_runs import MergedRuns
        from specdec.sparse.scorers.recency import Recency

        return self.policy(
            "kvmerger", target, Recency(), importance=Running(AccumulatedMass()),
            residue=MergedRuns(self.merged_share, self.merge_cosine),
        )  # fmt: skip
