"""SnapKV (arXiv 2404.14469): tokens that the prompt's last queries vote for, once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class SnapKV(PageBudget):
    """Votes are pooled over 5 neighbours (the paper's kernel size for LongBench).

    What is generated takes the place of what had the fewest votes, up to half of the budget.
    """

    paper = "2404.14469"
    family = "prefill scorer"
    keeps = "tokens that the prompt's last queries look at"

    refresh: str | int = "prompt"

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.scorers.exact_mass import ExactMass

        return self.policy("snapkv", target, ExactMass(1), queries="prompt", votes="mean", pool=5)
