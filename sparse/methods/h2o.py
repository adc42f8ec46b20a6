"""H2O (arXiv 2306.14048): the tokens that all queries so far have looked at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class H2O(PageBudget):
    """Heavy hitters by `importances.accumulated`, and the last tokens.

    The paper gives half of the budget to recent tokens (`recent=256` does) and never takes back
    what it evicted. Here verification reads everything, so whatever gathers attention later is
    chosen again in the next round; the window is that of the other views.
    """

    paper = "2306.14048"
    family = "step scorer"
    keeps = "the most attended tokens"

    sink: int = 0

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.importances.accumulated import AccumulatedMass
        from specdec.sparse.importances.running import Running

        return self.policy("h2o", target, importance=Running(AccumulatedMass()))
