"""merge_runs: neighbours with similar keys as one, weighted around the most attended of them.

KVMerger (Wang et al. 2024, arXiv 2407.08454); there is no released code.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from specdec.sparse.maths.merging import scatter_mean


def runs(k: Tensor, left: Tensor, count: int | None, least: float) -> Tensor:
    """Which run each token of `k[H, S, D]` is in, `int64[H, S]`, counted from 0 in their order.

    A token joins the run of the one before it where the cosine of their keys is above `least` and
    both are `left: bool[H, S]`; any other is a run of its own. With `count`, `least` is lowered for
    each head so far that the tokens left make at most `count` runs, if neighbours can (the paper
    fits its threshold to a budget).
    """
    cos = (normalize(k[:, 1:], dim=-1) * normalize(k[:, :-1], dim=-1)).sum(-1)
    cos = cos.masked_fill(~(left[:, 1:] & left[:, :-1]), -torch.inf)
    joined = cos > least
    if count is not None:
        surplus = left.sum(-1) - count  # as many have to join
        order = cos.argsort(dim=-1, descending=True).argsort(dim=-1)
        joined |= (order < surplus[:, None]) & cos.isfinite()
    start = torch.cat([torch.zeros_like(left[:, :1]), ~joined], dim=1)
    return start.long().cumsum(-1)


def merge_runs(
    k: Tensor, v: Tensor, left: Tensor, score: Tensor, run: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values `[H, n, D]` of the runs of tokens that are left, and how many tokens each is.

    k, v: `[H, S, D]`; score: `[H, S]`, the attention that tokens have had; run: see `runs`. With
    the pivot p of a run, its token of the greatest score, k* = sum g_i k_i / sum g_i and v* the
    same of values, g_i = exp(-|k_p - k_i|^2 / (2 sigma^2)). sigma is the run's mean distance from
    the pivot, since the paper's formula for it is of the weights g that it makes. The paper also
    multiplies v* by the number of tokens; that goes into the entry's log-weight here, by which the
    mass of a run is right, too. Runs of nobody have count 0.
    """
    groups = int(run.max()) + 1
    top = score.new_full((len(k), groups), -torch.inf)
    top.scatter_reduce_(1, run, score.masked_fill(~left, -torch.inf), "amax")
    is_pivot = left & (score == top.gather(1, run))
    place = torch.arange(k.shape[1], device=k.device).expand_as(run)
    pivot = place.new_zeros(len(k), groups).scatter_reduce_(
        1, run, place.where(is_pivot, 0), "amax"
    )
    theirs = pivot.gather(1, run)
    apart = (k - k.gather(1, theirs[..., None].expand_as(k))).norm(dim=-1)
    mine = left.to(k.dtype)
    sigma, count = scatter_mean(apart[..., None], run, groups, mine)
    sigma = sigma[..., 0].gather(1, run)
    g = torch.where(sigma > 0, (-(apart**2) / (2 * sigma**2)).exp(), 1.0) * mine
    return scatter_mean(k, run, groups, g)[0], scatter_mean(v, run, groups, g)[0], count
