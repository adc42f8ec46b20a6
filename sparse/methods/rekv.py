"""ReKV (arXiv 2503.00540): whole frames of a video, by what the question asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class ReKV(PageBudget):
    """All text is read, as far as the budget goes, and the best frames; see
    `importances.frame_means`. The paper has 64 frames, here they are what the budget holds. Of a
    text without images it reads what its end looks at.
    """

    paper = "2503.00540"
    family = "visual tokens"
    keeps = "text, and the images or frames whose keys the question asks for"

    refresh: str | int = "prompt"

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.importances.frame_means import FrameMeans
        from specdec.sparse.maths.key_rotation import KeyRotation

        return self.policy("rekv", target, importance=FrameMeans(KeyRotation.of(target, "rekv")))
