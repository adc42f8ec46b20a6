"""MPCache (arXiv 2501.06807): tokens that were looked at once, then by a bound that is linear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import LayerRule, Number
from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class FirstOfPairs(LayerRule):
    """The first layer with full attention of every two."""

    def of(self, layer_types: Sequence[str]) -> tuple[int, ...]:
        full = [n for n, kind in enumerate(layer_types) if kind != "sliding_attention"]
        return tuple(full[::2])

    def __str__(self) -> str:
        return "the first of every 2"


@dataclass(frozen=True)
class MPCache(PageBudget):
    """Neighbouring layers share a choice; the first and the last group are always read.

    The paper computes under secret sharing, where comparisons are dear; that is not done here.
    """

    paper = "2501.06807"
    family = "selector"
    keeps = "groups of 16 tokens by a linear bound, of what the prompt's end looked at"

    sink: int = 16
    recent: int = 16
    refresh: str | int = "pass"
    anchors: tuple[int, ...] | LayerRule | None = FirstOfPairs()
    looked_share: float = option(
        0.5, "Share of the prompt's tokens that were looked at enough to be kept.", Number()
    )

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.importances.look_once import LookOnce
        from specdec.sparse.scorers.looked_at import LookedAt

        return self.policy("mpcache", target, LookedAt(LookOnce(self.looked_share)))
