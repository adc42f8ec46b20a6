"""DefensiveKV (arXiv 2510.13334): tokens by the most that any query of the window makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Flag
from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from torch import Tensor

    from specdec.model.target import Target
    from specdec.sparse.importances.worst_case import WorstCase
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class Defensive(PageBudget):
    """The heads of a layer share its budget as in AdaKV. The window of 32 is kept itself."""

    paper = "2510.13334"
    family = "prefill scorer"
    keeps = "tokens by their worst case over the window"

    sink: int = 0
    recent: int = 32
    refresh: str | int = "prompt"
    by_output: bool = option(
        True, "Whether values count by what they can add to the layer's output (CriticalKV), which "
        "needs its output projection.", Flag(),
    )  # fmt: skip

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.budgets.adaptive_heads import AdaptiveHeads

        return self.policy(
            "defensive", target, importance=self.importance(target), heads=AdaptiveHeads()
        )

    def importance(self, target: Target) -> WorstCase:
        """How it judges tokens of a model."""
        from specdec.sparse.importances.worst_case import WorstCase

        return WorstCase(_outputs(target) if self.by_output else None)


@dataclass(frozen=True)
class LayerDefensive(Defensive):
    """The heads of all layers share the whole budget: the best tokens of them all together."""

    keeps = "as defensive, with a budget over all layers"

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.budgets.pooled_layers import PooledLayers

        return self.policy(
            "layer-defensive", target, importance=self.importance(target),
            layers=PooledLayers(self.sink + self.recent), layer_types=tuple(target.layer_types),
        )  # fmt: skip


def _outputs(target: Target) -> Callable[[int], Tensor]:
    """W_o `[Hq, Dv, hidden]` of a layer, asked of the model when it is needed."""
    from specdec.sparse.maths.output_projection import output_projection

    config = target.model.config.get_text_config()
    heads = int(config.num_attention_heads)
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return lambda layer: output_projection(target, layer, heads, dim, "defensive")
