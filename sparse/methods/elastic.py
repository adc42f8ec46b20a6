"""Elastic Cache (arXiv 2407.18121): the most attended tokens, each with its neighbours merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class Elastic(PageBudget):
    """Tokens by the sum of all attention to them, mean over the heads; each other one is averaged
    into the nearest of them by place. It knows nothing of images, so a text without them is read
    alike.

    The paper drops what is generated at a fixed distance from the end; here it is read as it is,
    besides the budget and up to as much again.
    """

    paper = "2407.18121"
    family = "visual tokens"
    keeps = "the most attended tokens, with their neighbours merged into them"

    sink: int = 1
    recent: int = 1
    refresh: str | int = "prompt"

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.importances.accumulated import AccumulatedMass
        from specdec.sparse.importances.head_mean import HeadMean
        from specdec.sparse.importances.running import Running
        from specdec.sparse.residues.merged_into_kept import MergedIntoKept

        return self.policy(
            "elastic", target, importance=HeadMean(Running(AccumulatedMass())),
            residue=MergedIntoKept(by_place=True),
        )  # fmt: skip
