"""TidalDecode (arXiv 2410.05076): exact top tokens of anchor layers, reused by those above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.option_kinds import LayerRule
from specdec.sparse.methods.page_budget import FirstLayers, PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class ThirdsOfLayers(LayerRule):
    """Layer 2 and the ends of the first two thirds, moved up to layers with full attention."""

    def of(self, layer_types: Sequence[str]) -> tuple[int, ...]:
        layers = len(layer_types)
        full = [i for i, kind in enumerate(layer_types) if kind != "sliding_attention"]
        wanted = {2, layers // 3, 2 * layers // 3} if layers >= 6 else {0}
        return tuple(
            sorted({min([i for i in full if i >= w] or full[-1:]) for w in wanted if full})
        )

    def __str__(self) -> str:
        return "layer 2 and the ends of the first two thirds"


@dataclass(frozen=True)
class Tidal(PageBudget):
    """Anchors read everything, so that their scores are exact at no extra read."""

    paper = "2410.05076"
    family = "selector"
    keeps = "the top tokens of a few anchor layers, for all layers"

    refresh: str | int = "pass"
    anchors: tuple[int, ...] | LayerRule | None = ThirdsOfLayers()
    dense: tuple[int, ...] | LayerRule = FirstLayers(2)

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.scorers.exact_mass import ExactMass

        return self.policy("tidal", target, ExactMass(1), exact_anchors=True)
