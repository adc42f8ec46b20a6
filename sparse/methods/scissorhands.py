"""Scissorhands (arXiv 2305.17118): the tokens that were ignored least often of late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class Scissorhands(PageBudget):
    """By `importances.neglect`: counts over the last 400 queries, and the last 10 tokens.

    The paper drops half of a full cache at a time, so that it holds between half and all of the
    budget; here a round reads the budget, and the next one chooses anew. That later layers have
    more is left out: the paper gives no numbers.
    """

    paper = "2305.17118"
    family = "step scorer"
    keeps = "the tokens that late queries ignored least often"

    sink: int = 0
    recent: int = 10

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.importances.neglect import Neglect
        from specdec.sparse.importances.running import Running

        return self.policy("scissorhands", target, importance=Running(Neglect()))
