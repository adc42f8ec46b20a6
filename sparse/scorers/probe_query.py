"""probe_query: one query that stands for many (ActQKV, arXiv 2502.13542)."""

from __future__ import annotations

import torch
from torch import Tensor


def activation_bias(q: Tensor) -> Tensor:
    """How far each query stands out, `[H, M]`: sum over c of (q_c - mean_c)^2 / (var_c + eps).

    Mean and variance are those of the window `q[H, M, D]`; eps is 1 % of the mean variance, as in
    the released code.
    """
    mean, var = q.mean(dim=1, keepdim=True), q.var(dim=1, correction=0, keepdim=True)
    eps = 0.01 * var.mean(dim=-1, keepdim=True)
    bias = (q - mean).square() / (var + eps).clamp_min(torch.finfo(q.dtype).tiny)
    return bias.sum(dim=-1)


def probe_query(q: Tensor, share: float = 0.02) -> Tensor:
    """The mean of the `share` of queries with the largest bias, weighted by it: `[H, D]`.

    q: `[H, M, D]`, a window. At least one query counts; where all are alike, the first. The
    released code's share is 2 %.
    """
    bias = activation_bias(q)
    count = max(1, -int(-share * q.shape[1] // 1))
    best = bias.topk(count, dim=-1)
    weight = torch.where(best.values.sum(-1, keepdim=True) > 0, best.values, 1.0)
    weight = weight / weight.sum(dim=-1, keepdim=True)
    chosen = q.gather(1, best.indices[..., None].expand(-1, -1, q.shape[-1]))
    return (weight[..., None] * chosen).sum(dim=1)


def spread(score: Tensor) -> Tensor:
    """Entropy of softmax(score[..., P]) over log P, `[...]`: 1 where all are alike, 0 for one."""
    p = score.softmax(dim=-1)
    most = torch.log(torch.tensor(float(max(2, score.shape[-1]))))
    return -torch.xlogy(p, p).sum(dim=-1) / most.to(p)


def representatives(k: Tensor, q: Tensor, count: int = 4) -> Tensor:
    """The mean of the `count` keys of each block that queries look at most: `[H, P, D]`.

    k: `[H, P, block, D]`; q: `[H, M, D]`, queries that were there when the blocks were made. As in
    InfLLM (arXiv 2402.04617, eq. 2), on which ActQKV builds: r_m = mean over q of q . k_m.
    """
    asked = torch.einsum("hpsd,hd->hps", k, q.mean(dim=1).to(k))
    best = asked.topk(min(count, k.shape[2]), dim=-1).indices
    return k.gather(2, best[..., None].expand(-1, -1, -1, k.shape[-1])).mean(dim=2)
