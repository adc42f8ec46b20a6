"""even_attention: layers keep more where attention is spread evenly over the text (D2O)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

LEAST = 0.01  # of the text, that a layer keeps: the released code's floor


def unevenness(column_sums: Tensor) -> float:
    """Variance over tokens of the attention they got, `[S]` or `[Hkv, S]`, scaled to sum to 1."""
    sums = column_sums if column_sums.dim() == 1 else column_sums.sum(dim=0)
    return float((sums / sums.sum()).var(correction=0))


def even_attention(variances: Sequence[float], mean: int, length: int) -> list[int]:
    """Tokens of each layer: L mean softmax(-variance)_l, within 1 % and all of the `length`.

    D2O (arXiv 2406.13035), layers' allocation; mean: tokens of a layer on average. Variances of
    shares are small for long texts, so budgets differ little there.
    """
    low = min(variances)
    weights = [math.exp(low - x) for x in variances]
    scale = len(weights) * mean / sum(weights)
    least = max(1, int(LEAST * length))
    return [min(length, max(least, int(scale * w))) for w in weights]
