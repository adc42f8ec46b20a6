"""CompressKV (arXiv 2508.02401): what a layer's semantic retrieval heads look at, for all heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.sparse.methods.calibrated import Calibrated

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class CompressKV(Calibrated):
    """Four heads vote with the prompt's last 8 queries, which are kept themselves; layers share the
    budget by how much their output changes where they read little. Both are measured once."""

    paper = "2508.02401"
    family = "prefill scorer"
    keeps = "tokens that a few retrieval heads look at"
    measure = "compresskv"

    sink: int = 0
    recent: int = 8
    refresh: str | int = "prompt"

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.budgets.error_weighted import ErrorWeighted
        from specdec.sparse.calibrations.semantic_heads import HEADS
        from specdec.sparse.importances.semantic_votes import SemanticVotes

        measured = self.measured(target)
        heads = [_best(x["needle"], HEADS) if x else () for x in measured.layers]
        errors = [x["error"][0] if x else 0.0 for x in measured.layers]
        return self.policy(
            "compresskv", target, importance=SemanticVotes(tuple(heads)),
            layers=ErrorWeighted(tuple(errors)), layer_types=tuple(target.layer_types),
        )  # fmt: skip


def _best(numbers: list[float], count: int) -> tuple[int, ...]:
    """Where the greatest numbers are."""
    order = sorted(range(len(numbers)), key=lambda i: -numbers[i])
    return tuple(sorted(order[:count]))
