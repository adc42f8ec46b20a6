"""merge_into_kept: tokens that are left out, each averaged into one that is kept."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def nearest_by_cosine(k: Tensor, kept: Tensor) -> Tensor:
    """For each of `k[H, S, D]` the place of the kept key of the greatest cosine, `int64[H, S]`."""
    unit = normalize(k, dim=-1)
    alike = (unit @ unit.mT).masked_fill(~kept[:, None], -torch.inf)
    return alike.argmax(dim=-1)


def nearest_by_place(kept: Tensor) -> Tensor:
    """For each token the nearest kept one by place, the earlier of two, `int64[H, S]`."""
    at = torch.arange(kept.shape[1], device=kept.device)
    far = 2 * kept.shape[1]
    before = at.where(kept, -far).cummax(dim=1).values
    behind = at.where(kept, far).flip(1).cummin(dim=1).values.flip(1)
    return torch.where(at - before <= behind - at, before, behind)


def merge_into_kept(x: Tensor, kept: Tensor, into: Tensor, halfway: bool) -> Tensor:
    """`x[H, S, D]` with each kept row the mean of itself and of what goes `into` it.

    halfway: what is merged is brought halfway to its kept row before (LOOK-M's pivot). Other rows
    are left as they are.
    """
    where = into[..., None].expand_as(x)
    source = (x + x.gather(1, where)) / 2 if halfway else x
    source = source.masked_fill(kept[..., None], 0)
    sums = torch.where(kept[..., None], x, 0.0).scatter_add(1, where, source)
    count = kept.to(x).scatter_add(1, into, (~kept).to(x))
    return torch.where(kept[..., None], sums / count.clamp_min(1)[..., None], x)
