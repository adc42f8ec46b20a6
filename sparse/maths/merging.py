"""merging: several keys, or values, as one."""

from __future__ import annotations

import torch
from torch import Tensor


def scatter_mean(x: Tensor, group: Tensor, groups: int, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted means `[H, groups, D]` of the rows of `x[H, n, D]`, and the weights' sums.

    group: `int64[H, n]`, which mean a row goes into; weight: `[H, n]`, 0 leaves it out. A mean of
    nothing is 0.
    """
    total = weight.new_zeros(len(x), groups).scatter_add_(1, group, weight)
    sums = x.new_zeros(len(x) * groups, x.shape[-1])
    heads = torch.arange(len(x), device=x.device)[:, None] * groups
    sums.index_add_(0, (group + heads).flatten(), (x * weight[..., None]).flatten(0, 1))
    return sums.view(len(x), groups, -1) / torch.where(total > 0, total, 1.0)[..., None], total


def nearest(x: Tensor, among: Tensor) -> Tensor:
    """For each row of `x[H, n, D]` the row of `among[H, m, D]` of the greatest cosine."""
    unit = torch.nn.functional.normalize
    return (unit(x, dim=-1) @ unit(among, dim=-1).mT).argmax(-1)


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Unit vectors between unit vectors `a` and `b`, at the share t of their angle (Shoemake 1985).

    sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b with cos w = a b; nearly parallel ones are mixed
    linearly, opposite ones have no arc, and give a.
    """
    cos = (a * b).sum(-1, keepdim=True).clamp(-1, 1)
    angle, sine = cos.acos(), (1 - cos * cos).clamp_min(0).sqrt()
    is_plain = sine < 1e-4 if a.dtype != torch.float64 else sine < 1e-7
    safe = torch.where(is_plain, 1.0, sine)
    first = torch.where(is_plain, torch.where(cos > 0, 1 - t, 1.0), ((1 - t) * angle).sin() / safe)
    second = torch.where(is_plain, torch.where(cos > 0, t, 0.0), (t * angle).sin() / safe)
    return torch.nn.functional.normalize(first * a + second * b, dim=-1)
