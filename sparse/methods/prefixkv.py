"""PrefixKV (arXiv 2412.03409): layers keep as many tokens as hold the same share of attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class PrefixKV(PageBudget):
    """The first and the last token of the prompt are kept. The paper takes its shares from a few
    samples, once for all; here they are those of the text at hand, which it has as a variant."""

    paper = "2412.03409"
    family = "layer budgets"
    keeps = "tokens by all attention, the same share of it in each layer"

    sink: int = 1
    recent: int = 1
    refresh: str | int = "prompt"

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.budgets.equal_coverage import EqualCoverage
        from specdec.sparse.importances.column_sums import ColumnSums

        return self.policy(
            "prefixkv", target, importance=ColumnSums(),
            layers=EqualCoverage(self.sink + self.recent), layer_types=tuple(target.layer_types),
        )  # fmt: skip
