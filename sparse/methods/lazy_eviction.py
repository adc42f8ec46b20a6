"""LazyEviction (arXiv 2506.15969): the tokens that are not overdue against their own gaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Rounds
from specdec.sparse.methods.page_budget import REFRESH, PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class LazyEviction(PageBudget):
    """By `importances.recurrence`, chosen anew when a window of `recent` tokens has been written.

    The window is the paper's W, which it takes from how long gaps are: 101 for short reasoning
    (GSM8K), 175 and 363 for longer. What is overdue is hidden from the draft, and comes back when
    verification is seen to use it.
    """

    paper = "2506.15969"
    family = "step scorer"
    keeps = "the tokens that are used again and again"

    sink: int = 0
    recent: int = 101
    refresh: str | int = option(
        "window", "When to select anew: when `recent` tokens have come since (window), every pass, "
        "every round, where acceptance is falling, once a prompt, or every N rounds.",
        Rounds(("window", *REFRESH)),
    )  # fmt: skip

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.importances.recurrence import Recurrence
        from specdec.sparse.importances.running import Running
        from specdec.sparse.triggers.every_tokens import EveryTokens

        refresh = EveryTokens(max(1, self.recent)) if self.refresh == "window" else self.refresh
        return self.policy(
            "lazy-eviction", target, importance=Running(Recurrence()), refresh=refresh
        )
