"""quantized_attention: packed queries against a level that is kept in 8, 4 or 2 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.attention.softmax import partial_softmax
from specdec.kernels.cache.quantize_kv import QuantizedKV, dequantize
from specdec.kernels.dispatch import dispatched


@dispatched
def quantized_attention(
    q: Tensor,
    kv: QuantizedKV,
    length: Tensor,
    row_map: Tensor,
    *,
    scale: float,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of `q[B, H, N, D]` over the first `length[r]` quantised keys of each row.

    length: `int32[R]`, what `quantize_kv` has written; sequence b reads row `row_map[b]`
    (`int32[B]`). Keys and values are dequantised to the type of q. Returns o `[B, H, N, Dv]` and
    the natural-log lse `[B, H, N]`, float32 (float64 for float64).
    """
    batch, heads, nodes, dim = q.shape
    kv_heads, ends = kv.k.shape[1], length.tolist()
    parts: list[tuple[Tensor, Tensor]] = []
    known: dict[int, tuple[Tensor, Tensor]] = {}
    for b, row in enumerate(row_map.tolist()):
        if row not in known:
            known[row] = dequantize(kv, row, ends[row])
        keys, values = known[row]
        grouped = q[b : b + 1].reshape(1, kv_heads, heads // kv_heads * nodes, dim)
        parts.append(
            partial_softmax(
                grouped, keys[None].to(q), values[None].to(q), scale=scale, softcap=softcap
            )
        )
    o, lse = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return o.reshape(batch, heads, nodes, -1), lse.reshape(batch, heads, nodes)
