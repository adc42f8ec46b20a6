"""Sensitivity: layers keep more whose keys change more where less is read (EpiCache)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

POWER = 1.1  # EpiCache's alpha
FLOOR = 0.25  # of the mean: the released code's


@dataclass(frozen=True)
class Sensitivity:
    """Layers keep by `sensitivity`; `similarities` has a number for each layer of the model."""

    similarities: tuple[float, ...]
    looks = False

    def tokens(self, layers: Sequence[int], mean: int, scores: Sequence[Tensor]) -> list[int]:
        """See `LayerBudget`."""
        return sensitivity([self.similarities[n] for n in layers], mean)


def sensitivity(similarities: Sequence[float], mean: int) -> list[int]:
    """Tokens of each layer, `mean` on average at most.

    EpiCache (arXiv 2509.17396): weight_l = (1 - s_l)^1.1, where s_l is the mean cosine between the
    layer's keys with and without a block mask, scaled to 0 .. 1 over the layers; B_l = L * mean *
    weight_l / sum weight, at least a quarter of the mean, for which the others make way in
    proportion.
    """
    low, high = min(similarities), max(similarities)
    scaled = [(s - low) / (high - low) if high > low else 0.0 for s in similarities]
    weights = [(1 - s) ** POWER for s in scaled]
    layers, total = len(weights), sum(weights)
    least = int(FLOOR * mean)
    spare = layers * (mean - least)
    return [least + int(spare * w / total) for w in weights]
