"""page_mass: which share of the softmax each page holds, given the lse that attention returned."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.dispatch import dispatched


@dispatched
def page_mass(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    length: Tensor,
    row_map: Tensor,
    *,
    page_size: int,
    scale: float,
    softcap: float | None = None,
    votes: str = "max",
) -> Tensor:
    """The softmax mass of each page of a level: float32 `[B, Hkv, ceil(C / page_size)]`.

    q: `[B, H, N, D]`; k: `[R, Hkv, C, D]`, of which the first `length[r]` (`int32[R]`) count;
    sequence b reads row `row_map[b]`; lse: float32 `[B, H, N]`, natural log, over whatever keys the
    mass is a share of. 0 where there are no keys. The N nodes and the heads of the group have one
    result: by votes "max" the greatest of their masses, by "mean" their mean.
    """
    batch, heads, nodes, dim = q.shape
    kv_heads, capacity = k.shape[1:3]
    row = row_map.long()
    ends = length[row]
    pages = -(-capacity // page_size)
    grouped = q.float().reshape(batch, kv_heads, -1, dim) * scale
    behind = torch.arange(capacity, device=k.device) >= ends[:, None, None, None]
    scores = grouped @ k[row].float().masked_fill(behind.mT, 0.0).mT
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    base = lse.reshape(batch, kv_heads, -1, 1).clamp_min(torch.finfo(torch.float32).min)
    share = torch.exp(scores - base).masked_fill(behind, 0.0)
    share = torch.nn.functional.pad(share, (0, pages * page_size - capacity))
    mass = share.unflatten(-1, (pages, page_size)).sum(-1)
    return mass.mean(2) if votes == "mean" else mass.amax(2)
