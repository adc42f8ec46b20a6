"""ErrorWeighted: layers keep more where reading little changes their output more (CompressKV)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

LEAST = 32  # tokens of a layer: the released code's floor
MOST = 3  # times the mean: the released code's ceiling


@dataclass(frozen=True)
class ErrorWeighted:
    """Layers keep by their `errors`, of which there is one for each layer of the model."""

    errors: tuple[float, ...]
    least: int = LEAST
    looks = False

    def tokens(self, layers: Sequence[int], mean: int, scores: Sequence[Tensor]) -> list[int]:
        """See `LayerBudget`."""
        return error_weighted([self.errors[n] for n in layers], mean * len(layers), self.least)


def error_weighted(errors: Sequence[float], total: int, least: int = LEAST) -> list[int]:
    """Tokens of each layer, `total` in all.

    CompressKV (arXiv 2508.02401): B_l = least + w_l * (total - L least), w_l = e_l / sum e, within
    [least, 3 * total / L]; what rounding and the ceiling leave over is dealt one by one, to the
    layers with the greatest error that have room, and taken back in the same way. errors: e_l =
    |o_full - o_small|_F / |o_full|_F of a layer's attention output, at least 0.
    """
    layers = len(errors)
    least = min(least, total // layers)
    most = max(least, MOST * total // layers)
    weight = sum(errors) or 1.0
    shares = [e / weight for e in errors] if sum(errors) else [1 / layers] * layers
    counts = [min(most, max(least, int(least + s * (total - layers * least)))) for s in shares]
    order = sorted(range(layers), key=lambda i: -errors[i])
    while (left := total - sum(counts)) > 0:
        for i in [i for i in order if counts[i] < most][:left]:
            counts[i] += 1
    return counts
