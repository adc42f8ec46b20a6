"""gather_attention: queries against chosen pages of a level, as a sparse view reads it."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.attention.softmax import partial_softmax
from specdec.kernels.dispatch import dispatched


@dispatched
def gather_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pages: Tensor,
    length: Tensor,
    row_map: Tensor,
    *,
    page_size: int,
    scale: float,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of `q[B, H, N, D]` over the keys of some pages, below the length of each row.

    k, v: `[R, Hkv, C, D]` and `[R, Hkv, C, Dv]`, one level; `length: int32[R]`; sequence b reads
    row `row_map[b]` (`int32[B]`). pages: `int32[B, Hkv, P]`, one index per kv head for all nodes
    and for the heads of its group, each page once, padded with -1 behind the last; page p holds
    the keys p * page_size ... (p + 1) * page_size - 1.
    Returns o `[B, H, N, Dv]` and the natural-log lse `[B, H, N]`, float32 (float64 for float64).
    """
    batch, heads, nodes, dim = q.shape
    kv_heads = k.shape[1]
    row = row_map.long()
    inside = torch.arange(page_size, device=pages.device, dtype=torch.int64)
    slots = pages[..., None].long() * page_size + inside
    visible = (pages[..., None] >= 0) & (slots < length[row][:, None, None, None])
    slots, visible = slots.flatten(2), visible.flatten(2)  # [B, Hkv, P * page_size]
    if bool(visible.all()):
        seen = None
    else:
        # A masked slot reads key 0 of the row: its value must not reach the sum even if it is NaN.
        slots = slots.masked_fill(~visible, 0)
        seen = visible[:, :, None, :]
    head = torch.arange(kv_heads, device=pages.device)[None, :, None]
    keys, values = k[row[:, None, None], head, slots], v[row[:, None, None], head, slots]
    if seen is not None:
        keys = keys.masked_fill(~visible[..., None], 0.0)
        values = values.masked_fill(~visible[..., None], 0.0)
    o, lse = partial_softmax(
        q.reshape(batch, kv_heads, heads // kv_heads * nodes, dim),
        keys,
        values,
        scale=scale,
        softcap=softcap,
        visible=seen,
    )
    return o.reshape(batch, heads, nodes, -1), lse.reshape(batch, heads, nodes)
