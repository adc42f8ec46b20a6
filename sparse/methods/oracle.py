"""Exact top tokens of every layer at every pass: what the others are measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.option_kinds import LayerRule
from specdec.sparse.methods.page_budget import FirstLayers, PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class Oracle(PageBudget):
    """The first two layers are dense, as with most of the others, and heads vote by their mean."""

    paper = "none: an upper bound"
    family = "selector"
    keeps = "the tokens with the most attention"

    refresh: str | int = "pass"
    dense: tuple[int, ...] | LayerRule = FirstLayers(2)

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.scorers.exact_mass import ExactMass

        return self.policy("oracle", target, ExactMass(1), votes="mean")
