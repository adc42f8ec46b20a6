"""zones: clusters that are read, clusters that are estimated, and those that are neither."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.forward.plan import Entries
from specdec.sparse.maths.merging import scatter_mean


def estimated(
    score: Tensor, read: Tensor, means: Tensor, v: Tensor, group: Tensor, count: int
) -> Entries:
    """Entries for the `count` best clusters of each head that are not read (RetroInfer).

    score: `[Hkv, U]`, how much a cluster matters; read: `bool[Hkv, S]`, tokens that are read
    themselves; means: `[Hkv, U, D]`, mean keys; v: `[Hkv, S, Dv]`; group: `int64[Hkv, S]`, each
    token's cluster, negative for none.

    RetroInfer (arXiv 2505.02922) takes n_u exp(q c_u) for the attention of a cluster of n_u tokens
    around c_u, and the sum of their values for its numerator: an entry of key c_u, the mean value
    and log-weight log n_u. n and the mean are those of the tokens that are not read, so a cluster
    that is read in part is estimated for the rest; one of which nothing is left has no entry.
    """
    heads, groups = score.shape
    left = (~read & (group >= 0)).to(v.dtype)
    values, number = scatter_mean(v, group.clamp_min(0), groups, left)
    rank = score.masked_fill(number == 0, -torch.inf)
    best = rank.topk(min(count, groups), dim=-1).indices
    wide = best[..., None].expand(-1, -1, means.shape[-1])
    values = values.gather(1, best[..., None].expand(-1, -1, values.shape[-1]))
    return Entries(means.gather(1, wide).to(v), values, number.gather(1, best).log())
