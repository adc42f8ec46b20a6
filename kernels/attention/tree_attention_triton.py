"""tree_attention on a GPU: one program per (sequence, kv head, tile of nodes x group heads)."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels.gpu import tiles
from specdec.kernels.gpu.online_softmax import finish, online, scores


def tree_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    anc: Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    q_positions: Tensor | None = None,
    k_positions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `specdec.kernels.attention.tree_attention`."""
    batch, heads, nodes, dim = q.shape
    kv_heads, staged, value_dim = v.shape[1:]
    group = heads // kv_heads
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    anc = anc.to(q.device, non_blocking=True).contiguous()
    if window is not None:
        assert q_positions is not None and k_positions is not None
        q_positions = q_positions.to(q.device, non_blocking=True).expand(batch, -1).contiguous()
        k_positions = k_positions.to(q.device, non_blocking=True).expand(batch, -1).contiguous()
    o = q.new_empty(batch, heads, nodes, value_dim, dtype=torch.float32)
    lse = q.new_empty(batch, heads, nodes, dtype=torch.float32)
    shape = tiles.tile(nodes * group, dim, value_dim, k.element_size())
    _tree[(triton.cdiv(nodes * group, shape.rows), kv_heads, batch)](
        q, k, v, anc, q_positions, k_positions, o, lse, scale, softcap or 1.0, window or 0,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], heads, nodes, staged, anc.shape[2],
        GROUP=group, DIM=dim, VALUE_DIM=value_dim,
        CAPPED=softcap is not None, WINDOWED=window is not None,
        ROWS=shape.rows, KEYS=shape.keys,
        WIDTH=tiles.power_of_two(dim), VALUE_WIDTH=tiles.power_of_two(value_dim),
        num_warps=shape.warps, num_stages=shape.stages, enable_fp_fusion=True,
    )  # fmt: skip
    return o, lse


@triton.jit
def _tree(
    q, k, v, anc, q_positions, k_positions, o, lse, scale, softcap, window,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, heads, nodes, staged, words,
    GROUP: tl.constexpr, DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
    CAPPED: tl.constexpr, WINDOWED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr,
):  # fmt: skip
    kv_head = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    node = m // GROUP
    head = kv_head * GROUP + m % GROUP
    live = node < nodes
    d, dv, n = tl.arange(0, WIDTH), tl.arange(0, VALUE_WIDTH), tl.arange(0, KEYS)
    queries = tl.load(
        q + (b * q_b + head * q_h + node * q_n)[:, None] + d[None, :],
        mask=live[:, None] & (d < DIM)[None, :],
        other=0.0,
    )
    k += b * k_b + kv_head * k_h
    v += b * v_b + kv_head * v_h
    if WINDOWED:
        here = tl.load(q_positions + b * nodes + node, mask=live, other=0)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, VALUE_WIDTH], tl.float32)
    for start in range(0, staged, KEYS):
        c = start + n
        keys = tl.load(
            k + c[None, :] * k_n + d[:, None],
            mask=(c < staged)[None, :] & (d < DIM)[:, None],
            other=0.0,
        )
        values = tl.load(
            v + c[:, None] * v_n + dv[None, :],
            mask=(c < staged)[:, None] & (dv < VALUE_DIM)[None, :],
            other=0.0,
        )
        # KEYS divides 64: all keys of this step have their bits in one word.
        word = tl.load(anc + (b * nodes + node) * words + start // 64, mask=live, other=0)
        seen = (word[:, None] >> (c & 63).to(tl.int64)[None, :]) & 1 == 1
        seen = seen & (c < staged)[None, :]
        if WINDOWED:
            there = tl.load(k_positions + b * staged + c, mask=c < staged, other=0)
            seen = seen & (here[:, None] - there[None, :] < window)
        s = scores(queries, keys, scale, softcap, CAPPED)
        s = tl.where(seen, s, float("-inf"))
        peak, total, acc = online(s, values, peak, total, acc)
    acc, logs = finish(peak, total, acc)
    slot = (b * heads + head) * nodes + node
    tl.store(
        o + slot[:, None] * VALUE_DIM + dv[None, :],
        acc,
        mask=live[:, None] & (dv < VALUE_DIM)[None, :],
    )
    tl.store(lse + slot, logs, mask=live)
