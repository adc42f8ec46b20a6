"""Scores of an index on a GPU: what page_bounds, chunk_scores and label_scores have in common.

One program is (tile of units, kv head, sequence): it reads its part of the index once and goes over
all queries, nodes x group heads, keeping the greatest score.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.kernels.gpu.tiles import power_of_two

ROWS = 16


def score(
    q: Tensor,
    index: Tensor,
    length: Tensor,
    row_map: Tensor,
    *,
    unit: int,
    channels: Tensor | None = None,
    scales: Tensor | None = None,
) -> Tensor:
    """Float32 `[B, Hkv, U]`: max over queries of q times an index of units of `unit` keys each.

    q: `[B, H, N, D]`; index: contiguous `[R, Hkv, U, L]`, or `[R, Hkv, U, 2, L]` for bounds;
    channels: `int32[R, Hkv, L]`, which channels of q the index holds, or None for all; scales: step
    and lowest value of 4-bit codes, `[R, Hkv, U, 2]`, the index then being `uint8[R, Hkv, U, L/2]`.
    -inf for units that do not lie below the row's length.
    """
    batch, heads, nodes, _ = q.shape
    kv_heads, units, width = index.shape[1], index.shape[2], index.shape[-1]
    q = q if q.stride(-1) == 1 else q.contiguous()
    assert index.is_contiguous() and q.dtype == (index if scales is None else scales).dtype
    out = q.new_empty(batch, kv_heads, units, dtype=torch.float32)
    block = min(64, 16384 // (power_of_two(width) * index.element_size()))
    _score[(triton.cdiv(units, block), kv_heads, batch)](
        q, index, channels, scales,
        length.to(q.device, non_blocking=True), row_map.to(q.device, non_blocking=True), out,
        *q.stride()[:3], nodes, units, unit,
        GROUP=heads // kv_heads, DIM=width, BOUNDS=index.dim() == 5,
        ROWS=ROWS, UNITS=block, WIDTH=power_of_two(width), enable_fp_fusion=True,
    )  # fmt: skip
    return out


@triton.jit
def _score(
    q, index, channels, scales, length, row_map, out, q_b, q_h, q_n, nodes, units, unit,
    GROUP: tl.constexpr, DIM: tl.constexpr, BOUNDS: tl.constexpr,
    ROWS: tl.constexpr, UNITS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    kv_head = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    row = tl.load(row_map + b).to(tl.int64)
    full = tl.load(length + row) // unit
    u = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    slot = (b * tl.num_programs(1) + kv_head) * units + u
    if tl.program_id(0) * UNITS >= full:
        tl.store(out + slot, tl.full([UNITS], float("-inf"), tl.float32), mask=u < units)
        return
    d = tl.arange(0, WIDTH)
    vectors = 2 if BOUNDS else 1
    place = row * tl.num_programs(1) + kv_head
    index += place * units * vectors * DIM
    channel = d
    if channels is not None:  # DIM counts bytes where there are scales: two channels share one
        channels += place * DIM * (1 if scales is None else 2)
        channel = tl.load(channels + d, mask=d < DIM, other=0)
    at = u.to(tl.int64)[None, :] * vectors * DIM + d[:, None]
    held = (u < full)[None, :] & (d < DIM)[:, None]
    if scales is None:
        low = tl.load(index + at, mask=held, other=0.0)
    else:
        byte = tl.load(index + at, mask=held, other=0)
        low, high = (byte & 15).to(q.dtype.element_ty), (byte >> 4).to(q.dtype.element_ty)
        of_key = scales + (place * units + u) * 2
        step = tl.load(of_key, mask=u < full, other=0.0).to(tl.float32)
        least = tl.load(of_key + 1, mask=u < full, other=0.0).to(tl.float32)
        other = tl.load(channels + DIM + d, mask=d < DIM, other=0)
    if BOUNDS:
        high = tl.load(index + at + DIM, mask=held, other=0.0)
    top = tl.full([UNITS], float("-inf"), tl.float32)
    for start in range(0, nodes * GROUP, ROWS):
        m = start + tl.arange(0, ROWS)
        live = m < nodes * GROUP
        at_q = b * q_b + (kv_head * GROUP + m % GROUP) * q_h + m // GROUP * q_n
        queries = tl.load(
            q + at_q[:, None] + channel[None, :],
            mask=live[:, None] & (d < DIM)[None, :],
            other=0.0,
        )
        if BOUNDS:
            wide = queries.to(tl.float32)
            above = tl.where(wide > 0, wide, 0.0).to(queries.dtype)
            below = tl.where(wide < 0, wide, 0.0).to(queries.dtype)
            s = tl.dot(above, high, input_precision="tf32x3")
            s += tl.dot(below, low, input_precision="tf32x3")
        else:
            s = tl.dot(queries, low, input_precision="tf32x3")
        if scales is not None:  # the step is applied to sums of codes, the least to sums of queries
            others = tl.load(
                q + at_q[:, None] + other[None, :],
                mask=live[:, None] & (d < DIM)[None, :],
                other=0.0,
            )
            s += tl.dot(others, high, input_precision="tf32x3")
            total = tl.sum(queries.to(tl.float32) + others.to(tl.float32), 1)
            s = s * step[None, :] + total[:, None] * least[None, :]
        top = tl.maximum(top, tl.max(tl.where(live[:, None], s, float("-inf")), 0))
    tl.store(out + slot, tl.where(u < full, top, float("-inf")), mask=u < units)
