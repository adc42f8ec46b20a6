"""RazorAttention (arXiv 2407.15891): retrieval heads read all, the others a compensation token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Number
from specdec.sparse.methods.split_heads import SplitHeads

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class Razor(SplitHeads):
    """The 14 % of query heads with the most induction and the 1 % with the most echo are retrieval
    heads, and a KV head is one if any of its group is. The others read 4 sinks, a window, and one
    token that stands for all that they leave out.

    The paper's window is a fifth of the text, but at least 4,000 tokens; here it is the budget.
    """

    paper = "2407.15891"
    family = "head plan"
    keeps = "everything for retrieval heads, a window and a mean for the others"
    measure = "razor"

    sink: int = 4
    induction_heads: float = option(0.14, "Share of heads that are kept for induction.", Number())
    echo_heads: float = option(0.01, "Share of heads that are kept for echo.", Number())

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.residues.compensation import Compensation

        layers = self.measured(target).layers
        chosen = _greatest([x["induction"] if x else [] for x in layers], self.induction_heads)
        chosen |= _greatest([x["echo"] if x else [] for x in layers], self.echo_heads)
        heads = target.kv_shape.kv_heads
        far = []
        for n, x in enumerate(layers):
            size = len(x["echo"]) // heads if x else 0
            own = [any((n, h * size + g) in chosen for g in range(size)) for h in range(heads)]
            far.append(own if x else [])
        return self.split("razor", target, far, residue=Compensation())


def _greatest(numbers: list[list[float]], share: float) -> set[tuple[int, int]]:
    """The (layer, head) of the greatest numbers, a `share` of all, rounded up."""
    every = [(x, n, h) for n, layer in enumerate(numbers) for h, x in enumerate(layer)]
    count = -(-round(share * 1000) * len(every) // 1000)
    return {(n, h) for _, n, h in sorted(every, reverse=True)[:count]}
