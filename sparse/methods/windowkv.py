"""WindowKV (arXiv 2503.17922): windows of 8 tokens, chosen once for groups of 8 layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import LayerRule, OneOf
from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView

GROUP = 8  # layers that share their windows, as in the released code


@dataclass(frozen=True)
class FirstOfGroups(LayerRule):
    """The first layer with full attention of every 8."""

    def of(self, layer_types: Sequence[str]) -> tuple[int, ...]:
        full = [n for n, kind in enumerate(layer_types) if kind != "sliding_attention"]
        starts = range(0, len(layer_types), GROUP)
        firsts = (next((n for n in full if start <= n < start + GROUP), None) for start in starts)
        return tuple(n for n in firsts if n is not None)

    def __str__(self) -> str:
        return "the first of every 8"


@dataclass(frozen=True)
class WindowKV(PageBudget):
    """Higher groups keep less. The suffix of 32 queries that votes is kept itself."""

    paper = "2503.17922"
    family = "prefill scorer"
    keeps = "windows of 8 tokens, the same in groups of layers"

    sink: int = 0
    recent: int = 32
    refresh: str | int = "prompt"
    anchors: tuple[int, ...] | LayerRule | None = FirstOfGroups()
    window_task: str = option(
        "locate", "Whether the text is asked for something in it, so that a window counts by its "
        "better half, or for all of it.", OneOf("locate", "aggregate"),
    )  # fmt: skip

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.budgets.group_pyramid import GroupPyramid
        from specdec.sparse.importances.window_means import WindowMeans

        kinds = tuple(target.layer_types)
        return self.policy(
            "windowkv", target, importance=WindowMeans(locating=self.window_task == "locate"),
            layers=GroupPyramid(len(kinds), GROUP), layer_types=kinds,
        )  # fmt: skip
