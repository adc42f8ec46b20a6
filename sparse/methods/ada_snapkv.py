"""AdaKV (arXiv 2407.11550) over SnapKV: a budget for each KV head by what it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class AdaSnapKV(PageBudget):
    """As `snapkv`, where heads whose attention is spread out keep more."""

    paper = "2407.11550"
    family = "prefill scorer"
    keeps = "as snapkv, a number of tokens for each KV head"

    refresh: str | int = "prompt"

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.budgets.adaptive_heads import AdaptiveHeads
        from specdec.sparse.scorers.exact_mass import ExactMass

        return self.policy(
            "ada-snapkv", target, ExactMass(1), queries="prompt", votes="mean", pool=5,
            heads=AdaptiveHeads(),
        )  # fmt: skip
