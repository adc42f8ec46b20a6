"""StreamingLLM (arXiv 2309.17453): sinks and a window; rotations stay as they were cached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class Streaming(PageBudget):
    """The paper's four sinks, and the last tokens up to the budget."""

    paper = "2309.17453"
    family = "window"
    keeps = "the first and the last tokens"

    sink: int = 4
    recent: int = 0

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.scorers.recency import Recency

        return self.policy("streaming", target, Recency())
