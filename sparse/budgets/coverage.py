"""Coverage: layers read as many tokens as hold a fixed share of what matters (ZipVL)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Coverage:
    """tokens of layer l = min{n: the n best scores make up `share` of all} (ZipVL, 2410.08584).

    By the mean of a layer's heads, `mean` at most and `least` at any rate.
    """

    share: float
    least: int = 0
    looks = True

    def tokens(self, layers: Sequence[int], mean: int, scores: Sequence[Tensor]) -> list[int]:
        """See `LayerBudget`."""
        return [min(mean, max(self.least, covering(x.mean(dim=0), self.share))) for x in scores]


def covering(score: Tensor, share: float) -> int:
    """The fewest of the scores `[S]` that make up a share of their sum."""
    if not len(score):
        return 0
    mass = score.double().sort(descending=True).values.cumsum(0)
    return min(len(score), int((mass < share * mass[-1]).sum()) + 1)
