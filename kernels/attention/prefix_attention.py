"""prefix_attention: packed queries against one contiguous level of the KV store.

The one shape for Hydragen's shared prefix (many sequences, one row), LongSpec's hybrid tree
attention (many nodes, one row) and plain decoding: the queries that read the same row are packed
into one block, so that its keys and values are read once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.attention.softmax import partial_softmax
from specdec.kernels.dispatch import dispatched
from specdec.kernels.precision import wide_dtype


@dispatched
def prefix_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    length: Tensor,
    row_map: Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    first: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of `q[B, H, N, D]` over the first `length[r]` keys of each sequence's row.

    k, v: `[R, Hkv, C, D]` and `[R, Hkv, C, Dv]`, one level; `length: int32[R]`; sequence b reads
    row `row_map[b]` (`int32[B]`), H is a multiple of Hkv and heads of one group are adjacent.
    first: `int64[B, N]`, the first key slot a query may see (sliding windows), or None for all.
    bias: `float32[R, Hkv, C]`, added to the logits of a key after the soft cap; -inf hides it.
    Returns o `[B, H, N, Dv]` and the natural-log lse `[B, H, N]`, float32 (float64 for float64).
    """
    batch, heads, nodes, dim = q.shape
    kv_heads = k.shape[1]
    rows = row_map.tolist()
    lengths = length.tolist()
    if batch == 1:
        end, row = lengths[rows[0]], rows[0]
        added = None if bias is None else bias[row]
        return _read(q, k[row : row + 1], v[row : row + 1], end, first, scale, softcap, added)

    o = q.new_empty(batch, heads, nodes, v.shape[-1], dtype=wide_dtype(q.dtype))
    lse = q.new_empty(batch, heads, nodes, dtype=wide_dtype(q.dtype))
    group = heads // kv_heads
    for row in dict.fromkeys(rows):
        shared = [b for b in range(batch) if rows[b] == row]
        # [S, Hkv, G, N, D] -> [1, Hkv * G, S * N, D]: sharing sequences stand beside tree nodes.
        packed = q[shared].view(len(shared), heads, nodes, dim).transpose(0, 1)
        packed = packed.reshape(1, kv_heads * group, len(shared) * nodes, dim)
        bounds = None if first is None else first[shared].reshape(1, -1)
        o_row, lse_row = _read(
            packed, k[row : row + 1], v[row : row + 1], lengths[row], bounds, scale, softcap,
            None if bias is None else bias[row],
        )  # fmt: skip
        o[shared] = o_row.view(heads, len(shared), nodes, -1).transpose(0, 1)
        lse[shared] = lse_row.reshape(heads, len(shared), nodes).transpose(0, 1)
    return o, lse


def _read(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    end: int,
    first: Tensor | None,
    scale: float,
    softcap: float | None,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One row: `q[1, H, M, D]` over keys `[first, end)`, with the group's heads packed into M."""
    _, heads, nodes, dim = q.shape
    kv_heads = k.shape[1]
    start, visible = 0, None
    if first is not None:
        low, high = (int(x) for x in first.clamp(0, end).aminmax())
        start = low
        if high > low:
            slots = torch.arange(start, end, device=q.device)
            visible = (slots >= first[0][:, None]).repeat(heads // kv_heads, 1)
    o, lse = partial_softmax(
        q.reshape(1, kv_heads, heads // kv_heads * nodes, dim),
        k[:, :, start:end],
        v[:, :, start:end],
        scale=scale,
        softcap=softcap,
        visible=visible,
        bias=None if bias is None else bias[None, :, None, start:end],
    )
    return o.reshape(1, heads, nodes, -1), lse.reshape(1, heads, nodes)
