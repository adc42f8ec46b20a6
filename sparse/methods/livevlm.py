"""LiveVLM (arXiv 2505.15269): image tokens from all over, and of those what is asked for."""

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
class LiveVLM(PageBudget):
    """All text is read, as far as the budget goes; see `importances.covered_sights` for images.

    A stream is compressed frame by frame, whether its frames come in one message, in several, or in
    turns of a conversation; what was dropped is no more a candidate. All is kept for verification
    alone, so this saves reading, not memory. Recent frames, which the paper keeps whole, are
    `recent`. Of a text without images it reads what its end looks at.
    """

    paper = "2505.15269"
    family = "visual tokens"
    keeps = "text, and pages of image tokens from all over that the question asks for"

    refresh: str | int = "prompt"
    retrieved_share: float = option(
        0.4, "Share of the image tokens kept that a question gets.", Number(0.01, 1.0)
    )

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.importances.covered_sights import CoveredSights
        from specdec.sparse.maths.key_rotation import KeyRotation

        sights = CoveredSights(KeyRotation.of(target, "livevlm"), self.budget, self.retrieved_share)
        return self.policy("livevlm", target, importance=sights)
