"""zones: clusters that are read, clusters that are estimated, and those that are neither."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.forward.plan import Entries


def estimated(
    score: Tensor, means: Tensor, sums: Tensor, sizes: Tensor, of: Tensor, v: Tensor, count: int
) -> Entries:
    """Entries for the `count` best clusters of each head that are not read (RetroInfer).

    score: `[Hkv, U]`, how much a cluster matters; means: `[Hkv, U, D]`, mean keys; sums:
    `[Hkv, U, Dv]`, of values; sizes: `int64[Hkv, U]`. of: `int64[Hkv, n]`, the clusters of those
    tokens that are read themselves, -1 for none; v: `[Hkv, n, Dv]`, their values.

    RetroInfer (arXiv 2505.02922) takes n_u exp(q c_u) for the attention of a cluster of n_u tokens
    around c_u, and the sum of their values for its numerator: an entry of key c_u, the mean value
    and log-weight log n_u. n and the mean are those of the tokens that are not read, so a cluster
    that is read in part is estimated for the rest; one of which nothing is left has no entry.
    """
    heads, groups = score.shape
    where = torch.where(of < 0, groups, of)
    number = sizes.new_zeros(heads, groups + 1).scatter_add_(1, where, torch.ones_like(where))
    number = sizes - number[:, :groups]
    rank = score.masked_fill(number == 0, -torch.inf)
    best = rank.topk(min(count, groups), dim=-1).indices
    # The read tokens of the best clusters alone are taken from their sums.
    place = best.new_full((heads, groups + 1), best.shape[1])
    place.scatter_(1, best, torch.arange(best.shape[1], device=best.device).expand_as(best))
    place = place.gather(1, where)
    head = torch.arange(heads, device=best.device)[:, None]
    width = best.shape[1] + 1
    read = sums.new_zeros(heads * width, sums.shape[-1])
    read.index_add_(0, (place + head * width).flatten(), v.flatten(0, 1).to(sums))
    number = number.gather(1, best)
    left = sums[head, best] - read.view(heads, width, -1)[:, :-1]
    return Entries(means[head, best], left / number.clamp_min(1)[..., None], number.to(sums).log())
