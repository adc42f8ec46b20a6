"""GroupPyramid: groups of neighbouring layers keep less the higher they are (WindowKV)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class GroupPyramid:
    """Layers, of which the model has `count`, keep by `group_pyramid`."""

    count: int
    group: int = 8
    beta: float = 14
    looks = False

    def tokens(self, layers: Sequence[int], mean: int, scores: Sequence[Tensor]) -> list[int]:
        """See `LayerBudget`; `mean` is over all layers, also those that share another's choice."""
        line = group_pyramid(self.count, mean, self.group, self.beta)
        return [line[n] for n in layers]


def group_pyramid(layers: int, mean: int, group: int = 8, beta: float = 14) -> list[int]:
    """Tokens of each layer, `mean` on average where `group` divides the layers.

    WindowKV (arXiv 2503.17922): the last group keeps mean * group / beta, the first 2 mean minus
    that, those between lie on a line; groups of 8 layers and beta 14 are the released code's, which
    asks for at least two groups. Here a last, smaller group is one, too, and one group keeps the
    mean; the line is lowered, nowhere below 0, so that the sum is layers * mean at most.
    """
    groups = -(-layers // group)
    if groups == 1:
        return [mean] * layers
    last = min(mean * group / beta, mean)
    first = 2 * mean - last
    line = [first + (last - first) * i / (groups - 1) for i in range(groups)]
    sizes = [min(group, layers - i * group) for i in range(groups)]
    parts = list(zip(sizes, line, strict=True))
    while True:
        excess = (sum(n * x for n, x in parts) - layers * mean) / sum(n for n, _ in parts)
        rest = [(n, x) for n, x in parts if x >= excess]
        if len(rest) == len(parts):
            break
        parts = rest  # what has nothing left gives nothing
    return [int(max(0.0, line[i // group] - excess)) for i in range(layers)]
