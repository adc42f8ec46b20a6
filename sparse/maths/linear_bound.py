"""linear_bound: groups of tokens by one product, the larger ones first (MPCache)."""

from __future__ import annotations

import torch
from torch import Tensor

ALPHA = 0.6  # MPCache's weight of the largest key
FINE, COARSE = 16, 32  # tokens of its groups
SHARE = 0.5  # of the coarse groups that are looked into


def blended(k: Tensor, size: int, alpha: float = ALPHA) -> Tensor:
    """One vector for every `size` neighbours of `k[H, n, D]`: `[H, ceil(n / size), D]`.

    MPCache (arXiv 2501.06807) scores a group by the sum over channels c of alpha q_c max_c +
    (1 - alpha) q_c min_c, which is linear in q: a product with alpha max + (1 - alpha) min, half of
    what Quest keeps. It is no bound: that would take the maximum or the minimum by the sign of q_c.
    """
    short = -k.shape[1] % size
    if short:  # the last key once more changes neither its maximum nor its minimum
        k = torch.cat([k, k[:, -1:].expand(-1, short, -1)], dim=1)
    low, high = k.unflatten(1, (-1, size)).aminmax(dim=2)
    return alpha * high + (1 - alpha) * low


def coarse_to_fine(q: Tensor, coarse: Tensor, fine: Tensor, share: float = SHARE) -> Tensor:
    """Scores `[H, F]` of the fine groups; -inf for those whose coarse group was not looked into.

    q: `[H, D]`, the mean of the queries, which is the mean of their scores. coarse `[H, C, D]` and
    fine `[H, F, D]`, two to each, are `blended`. The `share` best coarse groups are looked into.
    The first and the last group come before all others.
    """
    rough = torch.einsum("hd,hcd->hc", q, coarse)
    rough[:, 0] = rough[:, -1] = torch.inf
    kept = max(1, -(-rough.shape[1] * int(share * 100) // 100))
    out = torch.ones_like(rough, dtype=torch.bool)
    out.scatter_(1, rough.topk(kept, dim=1).indices, False)
    score = torch.einsum("hd,hfd->hf", q, fine)
    score.masked_fill_(out.repeat_interleave(2, dim=1)[:, : fine.shape[1]], -torch.inf)
    score[:, 0] = score[:, -1] = torch.inf
    return score
