"""quantized_attention on a GPU: as prefix_attention, with keys and values made in registers.

Codes j and j + D / 2 lie together, so a head is read as two halves, each with a dot of its own.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels.attention.merge_triton import merge_splits
from specdec.kernels.attention.prefix_attention_triton import packing
from specdec.kernels.cache.quantize_kv import QuantizedKV
from specdec.kernels.gpu import tiles
from specdec.kernels.gpu.codes import halves
from specdec.kernels.gpu.online_softmax import LOG2E, finish, tanh


def quantized_attention(
    q: Tensor,
    kv: QuantizedKV,
    length: Tensor,
    row_map: Tensor,
    *,
    scale: float,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """See `specdec.kernels.attention.quantized_attention`."""
    batch, heads, nodes, dim = q.shape
    rows, kv_heads, capacity = kv.k.shape[:3]
    value_dim, group = kv.value_dim, heads // kv_heads
    assert all(x.is_contiguous() for x in kv)
    q = q if q.stride(-1) == 1 else q.contiguous()
    row_map = row_map.to(q.device, non_blocking=True)
    packed, per_tile, groups = packing(row_map, rows, nodes * group)
    together = per_tile * nodes * group
    shape = tiles.tile(together, dim, value_dim, q.element_size())
    keys, warps = _steps(shape.rows, q.element_size(), kv.group)
    m_tiles = triton.cdiv(together, shape.rows)
    splits = tiles.split_count(
        programs=groups * m_tiles * kv_heads,
        keys=capacity,
        rows=together,
        dim=dim * kv.bits // 8,
        value_dim=value_dim * kv.bits // 8,
        itemsize=1,
        processors=tiles.processors(q.device),
    )
    o = q.new_empty(splits, batch, heads, nodes, value_dim, dtype=torch.float32)
    lse = q.new_empty(splits, batch, heads, nodes, dtype=torch.float32)
    _quantized[(groups * m_tiles, kv_heads, splits)](
        q, *kv, o, lse, length.to(q.device, non_blocking=True), row_map, packed,
        scale, softcap or 1.0, *q.stride()[:3], batch, heads, nodes, per_tile, m_tiles, capacity,
        triton.cdiv(tiles.MIN_SPLIT, keys),
        BITS=kv.bits, GROUP=group, TOKENS=kv.group, HALF=dim // 2, VALUE_HALF=value_dim // 2,
        VALUE_GROUP=kv.value_group, SPLIT=splits > 1, CAPPED=softcap is not None,
        ROWS=shape.rows, KEYS=keys, WIDTH=tiles.power_of_two(dim // 2),
        VALUE_WIDTH=tiles.power_of_two(value_dim // 2),
        num_warps=warps, num_stages=2, enable_fp_fusion=True,
    )  # fmt: skip
    return (o[0], lse[0]) if splits == 1 else merge_splits(o, lse)


def _steps(rows: int, itemsize: int, group: int) -> tuple[int, int]:
    """Keys of a step, all of one group, and warps: what holds codes and floats without spills."""
    keys = (64 if rows <= 64 else 32) // itemsize
    return min(keys, group & -group), 8 if rows * itemsize >= 64 else 4


@triton.jit
def _quantized(
    q, k, k_scales, v, v_scales, o, lse, length, row_map, packed, scale, softcap,
    q_b, q_h, q_n, batch, heads, nodes, per_tile, m_tiles, capacity, min_blocks,
    BITS: tl.constexpr, GROUP: tl.constexpr, TOKENS: tl.constexpr, HALF: tl.constexpr,
    VALUE_HALF: tl.constexpr, VALUE_GROUP: tl.constexpr, SPLIT: tl.constexpr,
    CAPPED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0) // m_tiles
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    m = (tl.program_id(0) % m_tiles) * ROWS + tl.arange(0, ROWS)
    place = m // (nodes * GROUP)
    node = m // GROUP % nodes
    head = kv_head * GROUP + m % GROUP
    if packed is None:
        lead = group * per_tile
        b = tl.where((place < per_tile) & (lead + place < batch), lead + place, -1)
    else:
        lead = tl.load(packed + group * per_tile)
        b = tl.load(packed + group * per_tile + place, mask=place < per_tile, other=-1)
    if tl.max(b, 0) < 0:
        return
    live = b >= 0
    b = tl.where(live, b, 0).to(tl.int64)
    row = tl.load(row_map + lead).to(tl.int64)
    end = tl.load(length + row)
    share = tl.maximum(tl.cdiv(tl.cdiv(end, KEYS), tl.num_programs(2)), min_blocks) * KEYS
    low = split * share
    high = tl.minimum(low + share, end)
    slot = ((split * batch + b) * heads + head) * nodes + node
    if SPLIT and low >= high:
        tl.store(lse + slot, tl.full([ROWS], float("-inf"), tl.float32), mask=live)
        return

    d, dv, n = tl.arange(0, WIDTH), tl.arange(0, VALUE_WIDTH), tl.arange(0, KEYS)
    at_q = (b * q_b + head * q_h + node * q_n)[:, None] + d[None, :]
    held_q = live[:, None] & (d < HALF)[None, :]
    q_low = tl.load(q + at_q, mask=held_q, other=0.0)
    q_high = tl.load(q + at_q + HALF, mask=held_q, other=0.0)
    first = (row * tl.num_programs(1) + kv_head) * capacity  # token of the level
    part = dv // VALUE_GROUP
    parts: tl.constexpr = VALUE_HALF // VALUE_GROUP
    k_bytes: tl.constexpr = HALF * BITS // 4
    v_bytes: tl.constexpr = VALUE_HALF * BITS // 4
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc_low = tl.zeros([ROWS, VALUE_WIDTH], tl.float32)
    acc_high = tl.zeros([ROWS, VALUE_WIDTH], tl.float32)
    for key in range(low, high, KEYS):
        c = first + key + n
        seen = key + n < high
        held = seen[None, :] & (d < HALF)[:, None]
        k_low, k_high = halves(c[None, :] * k_bytes, d[:, None], k, held, HALF, BITS)
        scales = k_scales + (first + key) // TOKENS * 4 * HALF + d
        inside = d < HALF
        k_low = k_low * tl.load(scales, mask=inside, other=0.0).to(tl.float32)[:, None]
        k_low += tl.load(scales + 2 * HALF, mask=inside, other=0.0).to(tl.float32)[:, None]
        k_high = k_high * tl.load(scales + HALF, mask=inside, other=0.0).to(tl.float32)[:, None]
        k_high += tl.load(scales + 3 * HALF, mask=inside, other=0.0).to(tl.float32)[:, None]
        s = tl.dot(q_low, k_low.to(q_low.dtype), input_precision="tf32x3")
        s = (s + tl.dot(q_high, k_high.to(q_high.dtype), input_precision="tf32x3")) * scale
        if CAPPED:
            s = softcap * tanh(s / softcap)
        s = tl.where(seen[None, :], s * LOG2E, float("-inf"))

        held = seen[:, None] & (dv < VALUE_HALF)[None, :]
        v_low, v_high = halves(c[:, None] * v_bytes, dv[None, :], v, held, VALUE_HALF, BITS)
        scales = v_scales + c[:, None] * 4 * parts + part[None, :]
        v_low = v_low * tl.load(scales, mask=held, other=0.0).to(tl.float32)
        v_low += tl.load(scales + 2 * parts, mask=held, other=0.0).to(tl.float32)
        v_high = v_high * tl.load(scales + parts, mask=held, other=0.0).to(tl.float32)
        v_high += tl.load(scales + 3 * parts, mask=held, other=0.0).to(tl.float32)

        top = tl.maximum(peak, tl.max(s, 1))
        keep = tl.exp2(peak - top)  # a step has a key, and the first one's peak is -inf
        p = tl.exp2(s - top[:, None])
        total = total * keep + tl.sum(p, 1)
        p = p.to(q_low.dtype)
        acc_low = acc_low * keep[:, None]
        acc_low += tl.dot(p, v_low.to(p.dtype), input_precision="tf32x3")
        acc_high = acc_high * keep[:, None]
        acc_high += tl.dot(p, v_high.to(p.dtype), input_precision="tf32x3")
        peak = top
    acc_low, _ = finish(peak, total, acc_low)
    acc_high, logs = finish(peak, total, acc_high)
    at = slot[:, None] * (2 * VALUE_HALF) + dv[None, :]
    held_o = live[:, None] & (dv < VALUE_HALF)[None, :]
    tl.store(o + at, acc_low, mask=held_o)
    tl.store(o + at + VALUE_HALF, acc_high, mask=held_o)
    tl.store(lse + slot, logs, mask=live)
