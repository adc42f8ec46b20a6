"""EqualCoverage: layers keep as many tokens as hold the same share of what matters (PrefixKV)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EqualCoverage:
    """Layers keep by `equal_coverage`, but `least` at any rate: what a view reads in any case."""

    least: int = 0
    looks = True

    def tokens(self, layers: Sequence[int], mean: int, scores: Sequence[Tensor]) -> list[int]:
        """See `LayerBudget`. A layer's tokens are those of the mean of its heads."""
        least = min(self.least, mean)
        means = [score.mean(dim=0) for score in scores]
        return [least + n for n in equal_coverage(means, (mean - least) * len(means))]


def equal_coverage(scores: Sequence[Tensor], total: int) -> list[int]:
    """How many tokens each layer keeps, `total` in all.

    PrefixKV (arXiv 2412.03409): with C_l(n) the share of layer l's importance that its n best
    tokens hold, n_l = min{n: C_l(n) >= p}, and p, the same for all layers, is found by bisection.
    scores: a layer's importances, `[S_l]`, each. The released code stops within 5 tokens of the
    total; here what p leaves over or takes too much is dealt one by one, as a growing p would: to
    the layer that covers least, and of equals the one whose next token holds the greatest share.
    """
    shares = [
        s.double().sort(descending=True).values / s.double().sum().clamp_min(1e-300) for s in scores
    ]
    curves = [share.cumsum(dim=0) for share in shares]
    total = min(total, sum(len(c) for c in curves))
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if sum(_prefix(curve, middle) for curve in curves) > total:
            high = middle
        else:
            low = middle
    counts = [_prefix(curve, low) for curve in curves]
    while sum(counts) < total:
        free = [i for i, n in enumerate(counts) if n < len(shares[i])]
        need = {i: (_covered(curves[i], counts[i]), -float(shares[i][counts[i]])) for i in free}
        counts[min(free, key=need.__getitem__)] += 1
    while sum(counts) > total:
        held = [i for i, n in enumerate(counts) if n]
        last = {
            i: (_covered(curves[i], counts[i] - 1), -float(shares[i][counts[i] - 1])) for i in held
        }
        counts[max(held, key=last.__getitem__)] -= 1
    return counts


def _covered(curve: Tensor, count: int) -> float:
    """The share that the first `count` tokens hold."""
    return float(curve[count - 1]) if count else 0.0


def _prefix(curve: Tensor, share: float) -> int:
    """The fewest first tokens whose share reaches `share`."""
    wanted = torch.tensor([share], dtype=curve.dtype, device=curve.device)
    return min(len(curve), int(torch.searchsorted(curve, wanted)) + (share > 0))
