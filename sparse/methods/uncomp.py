"""UNComp (arXiv 2410.03090): heads and layers keep by the entropy of their queries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.sparse.methods.calibrated import Calibrated

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class UNComp(Calibrated):
    """SnapKV's votes of the last 8 queries, pooled over 7; the half of a layer's heads with the
    lower entropy keeps half as much as the other, and layers behind a fall of entropy keep less.

    A KV head has the mean entropy of its group. Entropies are measured once. That whole heads are
    left out for others (the paper's extreme mode) is not done.
    """

    paper = "2410.03090"
    family = "head and layer budgets"
    keeps = "tokens that the prompt's end looks at, more where queries differ"
    measure = "uncomp"

    sink: int = 0
    recent: int = 8
    refresh: str | int = "prompt"

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.budgets.entropy_groups import EntropyGroups
        from specdec.sparse.budgets.entropy_stages import EntropyStages
        from specdec.sparse.importances.window_votes import WindowVotes

        shape, layers = target.kv_shape, self.measured(target).layers
        heads = tuple(_grouped(x["entropy"], shape.kv_heads) if x else () for x in layers)
        whole = tuple(sum(h) / len(h) * math.log(shape.head_dim) if h else 0.0 for h in heads)
        return self.policy(
            "uncomp", target, importance=WindowVotes(8, 7), heads=EntropyGroups(heads),
            layers=EntropyStages(whole, self.sink + self.recent),
            layer_types=tuple(target.layer_types),
        )  # fmt: skip


def _grouped(numbers: list[float], kv_heads: int) -> tuple[float, ...]:
    """Means over the query heads of each KV head."""
    size = len(numbers) // kv_heads
    return tuple(sum(numbers[h * size : (h + 1) * size]) / size for h in range(kv_heads))
