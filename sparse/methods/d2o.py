"""D2O (arXiv 2406.13035): heavy hitters, with what is left out merged into what it resembles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.option_kinds import LayerRule
from specdec.sparse.methods.page_budget import EndLayers, PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class D2O(PageBudget):
    """Tokens by `importances.accumulated`; layers whose attention is spread have more of the
    budget (`budgets.spread_layers`); dropped tokens join a kept one (`residues.merged_similar`).

    The paper merges token by token as it evicts, under a threshold that moves along; here the rest
    of a text is merged at once, from its own keys, whenever the view chooses: see the residue. Its
    budget is half heavy hitters and half recent tokens, of which there are `recent` here.
    """

    paper = "2406.13035"
    family = "merging"
    keeps = "the most attended tokens, with what resembles them merged"

    sink: int = 4
    dense: tuple[int, ...] | LayerRule = EndLayers(2, 1)

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.budgets.spread_layers import SpreadLayers
        from specdec.sparse.importances.accumulated import AccumulatedMass
        from specdec.sparse.importances.running import Running
        from specdec.sparse.residues.merged_similar import MergedSimilar

        return self.policy(
            "d2o", target, importance=Running(AccumulatedMass()), layers=SpreadLayers(),
            residue=MergedSimilar(), layer_types=tuple(target.layer_types),
        )  # fmt: skip
