"""Critic: attention and its entropy, each between 0 and 1 (CRITIC, arXiv 2504.01281)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.kernels.precision import wide
from specdec.sparse.importances.base import Observed, Statistics, grown


@dataclass(frozen=True)
class Critic:
    """score = weight * scaled(S) + (1 - weight) * scaled(E), scaled to 0 .. 1 in each KV head.

        S[h, t] = sum over i, g of A[h, g, i, t]        E[h, t] = -sum over i, g of A log A

    As printed, the attention term sums each query's row, which is 1 for every token: columns are
    summed here. The third term, a gradient of the loss, needs a backward pass and is left out; the
    paper gives no weights, so the two count alike.
    """

    weight: float = 0.5

    @property
    def key(self) -> str:
        return "critic"

    def begin(self, heads: int, like: Tensor) -> Statistics:
        """Sum and entropy, `[Hkv, T]`."""
        return like.new_zeros(heads, 0), like.new_zeros(heads, 0)

    def update(self, statistics: Statistics, seen: Observed) -> Statistics:
        mass, tokens = seen.mass, seen.mass.shape[-1]
        logits = wide(seen.logits)
        surprise = logits.logsumexp(dim=-1, keepdim=True) - logits  # -log A, inf for what is hidden
        spread = surprise.nan_to_num_(posinf=0.0).mul_(mass)
        parts = mass.sum(dim=(1, 2)), spread.sum(dim=(1, 2))
        total, entropy = (
            grown(x, tokens).add(part.to(x.dtype))
            for x, part in zip(statistics, parts, strict=True)
        )
        return total, entropy

    def scores(self, statistics: Statistics, length: int) -> Tensor:
        total, entropy = map(_scaled, statistics)
        return self.weight * total + (1 - self.weight) * entropy


def _scaled(x: Tensor) -> Tensor:
    """Each line between 0 and 1; 0 where all are equal."""
    low, high = x.aminmax(dim=-1, keepdim=True)
    return torch.where(high > low, (x - low) / (high - low), 0)
