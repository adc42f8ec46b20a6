"""SpecVLM for video (arXiv 2508.16201): image tokens that the question looks at, others evenly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Number
from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class VisualPrune(PageBudget):
    """All text is read, as far as the budget goes, and of images what is left of it.

    The paper keeps a tenth of the video tokens for a smaller model of the family; here the model
    drafts itself. Of a text without images it reads what its end looks at.
    """

    paper = "2508.16201"
    family = "visual tokens"
    keeps = "text, image tokens that the question looks at, others evenly spaced"

    refresh: str | int = "prompt"
    seen_share: float = option(
        0.4, "Share of the question's attention that image tokens are first kept for.",
        Number(0.0, 1.0),
    )  # fmt: skip

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.importances.seen_then_spread import SeenThenSpread

        return self.policy(
            "visual-prune", target, importance=SeenThenSpread(self.budget, self.seen_share)
        )
