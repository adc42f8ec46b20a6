"""WorstCase: a token matters as much as to the query it ever mattered most to (DefensiveKV)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from specdec.forward.plan import Needs
from specdec.sparse.maths.pooling import pooled
from specdec.sparse.text import Text


@dataclass(frozen=True)
class WorstCase:
    """Worst-case aggregation with a floor, times what a value adds to a layer's output.

    DefensiveKV (arXiv 2510.13334). With A[h, g, i, t] the attention of the window's queries:
        P_i  = pool(A_i) rescaled to the mass of A_i, for each query      (width 5)
        r_t  = max over g, i of P[h, g, i, t]                             (worst case)
        s_t  = max(r_t, mean_t r)                                         (prior risk: the floor)
        s_t *= n_t / sum over h of n_t,  n[h, t] = mean_g |W_o[h, g] v_t|_1   (CriticalKV)
    and the tokens that hold `mass` of the window's mean attention come before all others
    (CriticalKV, arXiv 2502.03805). The
    released code takes the window's own mass off that threshold, but measures it over columns that
    are not the window's; here the mean attention is normalised over the tokens that are scored, and
    the threshold stays as it is. outputs: gives W_o `[Hq, Dv, hidden]` of a layer; None leaves
    values out.
    """

    outputs: Callable[[int], Tensor] | None = field(default=None, compare=False)
    window: int = 32
    pool: int = 5
    mass: float = 0.9
    page_size = 1

    @property
    def needs(self) -> Needs:
        return Needs(self.window)

    def scores(self, text: Text) -> Tensor | None:
        """See `Importance`."""
        if text.window is None:
            return None
        norms = None
        if self.outputs is not None:
            output = self.outputs(text.layer).unflatten(0, (text.k.shape[0], -1))
            norms = value_norms(text.v, output)
        return self.score(text.attention(text.window.last(self.window)), norms)

    def score(self, attention: Tensor, value_norm: Tensor | None) -> Tensor:
        """Importances `[Hkv, S]`; those of protected tokens are above all others.

        attention: `[Hkv, G, w, S]`. value_norm: n `[Hkv, S]`, or None to leave it out.
        """
        smooth = pooled(attention, self.pool)
        smooth = smooth / smooth.sum(-1, keepdim=True).clamp_min(1e-30)
        smooth = smooth * attention.sum(-1, keepdim=True)
        worst = smooth.amax(dim=(1, 2))
        score = worst.maximum(worst.mean(dim=-1, keepdim=True))
        if value_norm is not None:
            score = score * (value_norm / value_norm.sum(dim=0, keepdim=True).clamp_min(1e-30))
        mean = attention.mean(dim=(1, 2))
        return score + score.amax() * protected(mean, self.mass)


def protected(mean: Tensor, mass: float) -> Tensor:
    """1 for the most attended tokens that together hold less than `mass` of the attention, and 0
    for the others, as `mean[Hkv, S]`: the released code stops before the one that reaches it."""
    ranked = mean.sort(dim=-1, descending=True, stable=True)
    reached = ranked.values.cumsum(dim=-1) >= mass * mean.sum(dim=-1, keepdim=True)
    return torch.zeros_like(mean).scatter_(-1, ranked.indices, (~reached).to(mean))


def value_norms(v: Tensor, output: Tensor) -> Tensor:
    """mean over g of |W_o[h, g] v|_1, `[Hkv, S]`: what a value can add to the layer's output.

    v: `[Hkv, S, Dv]`; output: `[Hkv, G, Dv, hidden]`, the projection of each query head.
    """
    sums = v.new_zeros(v.shape[:2])
    for g in range(output.shape[1]):  # a head at a time: S * hidden numbers are a lot
        for h in range(output.shape[0]):
            sums[h] += (v[h] @ output[h, g].to(v)).abs().sum(dim=-1)
    return sums / output.shape[1]
