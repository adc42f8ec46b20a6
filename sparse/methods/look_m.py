"""LOOK-M (arXiv 2406.18139): text before images, what is dropped merged into what is like it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class LookM(PageBudget):
    """Tokens by all the attention that they had in the prompt, those of images behind all text;
    merged by pivots (`residues.merged_into_kept`), the paper's default.

    The paper keeps a tenth of the tokens by score and a tenth of recent ones; here they are
    `budget` and `recent`. Of a text without images it is heavy hitters with merging.
    """

    paper = "2406.18139"
    family = "visual tokens"
    keeps = "text, then the most attended image tokens, with the others merged into them"

    sink: int = 0
    refresh: str | int = "prompt"

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.importances.accumulated import AccumulatedMass
        from specdec.sparse.importances.running import Running
        from specdec.sparse.importances.text_first import TextFirst
        from specdec.sparse.residues.merged_into_kept import MergedIntoKept

        return self.policy(
            "look-m", target, importance=TextFirst(Running(AccumulatedMass())),
            residue=MergedIntoKept(),
        )  # fmt: skip
