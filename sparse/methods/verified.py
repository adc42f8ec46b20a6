"""Pages by their mass in the last verification, which reads everything anyway; our own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class Verified(PageBudget):
    """Heads vote by their mean; on a CPU the keys are read again."""

    paper = "our own"
    family = "step scorer"
    keeps = "pages of 8 tokens that the last verification looked at"

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.scorers.exact_mass import ExactMass

        return self.policy("verified", target, ExactMass(8), queries="verified", votes="mean")
