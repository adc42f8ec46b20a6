"""Quest (arXiv 2406.10774): pages of 16 by a bound on their logits, first two layers dense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.option_kinds import LayerRule
from specdec.sparse.methods.page_budget import FirstLayers, PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class Quest(PageBudget):
    """The first page and the last 64 tokens are always among the pages, which the paper leaves to
    the bound: without them overlap with the full view at 512 of 4,000 tokens was 0.87, not 0.91.
    """

    paper = "2406.10774"
    family = "selector"
    keeps = "pages of 16 tokens by the bounds of their keys"

    refresh: str | int = "pass"
    dense: tuple[int, ...] | LayerRule = FirstLayers(2)

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.scorers.page_bounds import PageBounds

        return self.policy("quest", target, PageBounds(16))
