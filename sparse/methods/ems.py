"""EMS (arXiv 2412.08521): tokens by global or local attention, and what is redundant merged."""

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
class EMS(PageBudget):
    """What is kept is read as class centres, with what was merged into them; the rest is dropped.

    The paper does the same again at intervals while decoding; here what is generated is read as it
    is, unless `refresh` says otherwise, besides the budget and up to as much again.
    """

    paper = "2412.08521"
    family = "merging"
    keeps = "tokens by the prompt's attention, with what resembles them merged"

    refresh: str | int = "prompt"
    redundancy: float = option(0.6, "How alike a token has to be to be merged.", Number())

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.importances.global_local import GlobalLocal
        from specdec.sparse.residues.class_centres import ClassCentres

        return self.policy(
            "ems", target, importance=GlobalLocal(), residue=ClassCentres(self.redundancy)
        )
