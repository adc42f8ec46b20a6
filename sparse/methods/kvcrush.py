"""KVCrush (arXiv 2503.00022): SnapKV's choice, and representatives of what it leaves out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Number, OneOf
from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class KVCrush(PageBudget):
    """Tokens are told apart by which heads choose them. The base and its window of 8 queries, and
    the 32 first tokens, are those of OpenVINO GenAI's implementation, whose unit is a block."""

    paper = "2503.00022"
    family = "prefill scorer"
    keeps = "as snapkv, and samples of the rest"

    sink: int = 32
    recent: int = 32
    refresh: str | int = "prompt"
    crush_share: float = option(0.2, "Share of the budget for representatives.", Number())
    crush_anchor: str = option(
        "majority", "The pattern of heads from which tokens are told apart.",
        OneOf("majority", "ones", "zeros", "alternating"),
    )  # fmt: skip

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.importances.crush import Crush
        from specdec.sparse.importances.window_votes import WindowVotes

        count = max(0, self.budget - self.sink - self.recent)
        crush = Crush(
            WindowVotes(8), count, self.sink, self.recent, self.crush_share, self.crush_anchor
        )
        return self.policy("kvcrush", target, importance=crush)
