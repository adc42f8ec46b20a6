"""merge_similar: what is dropped goes into the kept key that it is most like (D2O, 2406.13035)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize


def merge_similar(
    k: Tensor, v: Tensor, kept: Tensor, threshold: float | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keys and values `[H, S, D]` in which kept tokens have taken up dropped ones.

    With u_i the cosine of a dropped key and the kept key j of its head that it is most like,

        c_j = e^{u_i} summed over i with u_i >= delta that go to j
        k_j <- (e k_j + sum e^{u_i} k_i) / (e + c_j),  v_j likewise           (D2O, eq. 7 to 9)

    e is the kept token's own weight, that of its cosine 1. threshold: delta, one for all heads;
    None takes the mean u of each head, which is where the paper's moving average begins. Also
    returned: how many tokens each stands for, `[H, S]`, 0 for dropped ones; and the mean u of each
    head, `[H]`. The released code does not divide by the weights, so its vectors shrink.
    """
    k2, v2, count = k.clone(), v.clone(), kept.to(k.dtype)
    means = k.new_ones(len(k))
    for head, mine in enumerate(kept):
        to, out = mine.nonzero()[:, 0], (~mine).nonzero()[:, 0]
        if not len(to) or not len(out):
            continue
        unit = normalize(k[head], dim=-1)
        u, nearest = (unit[out] @ unit[to].mT).max(dim=-1)
        means[head] = u.mean()
        weight = u.exp() * (u >= (means[head] if threshold is None else threshold))
        sums = k.new_full((len(to),), math.e).scatter_add_(0, nearest, weight)
        for x, x2 in ((k, k2), (v, v2)):
            merged = (math.e * x[head, to]).index_add_(0, nearest, weight[:, None] * x[head, out])
            x2[head, to] = merged / sums[:, None]
        count[head, to] += torch.zeros_like(sums).index_add_(0, nearest, (weight > 0).to(sums))
    return k2, v2, count, means


def moving_threshold(before: float | None, mean: float, alpha: float = 0.5) -> float:
    """delta_t = alpha delta_{t-1} + (1 - alpha) mean u; the mean itself at first. The released
    code's class has alpha 0.5, a remark in it 0.7."""
    return mean if before is None else alpha * before + (1 - alpha) * mean
