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

from specdec.kernels.tiles import power_of_two

ROWS = 16


def score(
    q: Tensor,
    index: Tensor,
    length: Tensor,
    row_map: Tensor,
    *,
    unit: int,
    channels: Tensor | None = None,
) -> Tensor:
    """Float32 `[B, Hkv, U]`: max over queries of q times an index of units of `unit` keys each.

    q: `[B, H, N, D]`; index: contiguous `[R, Hkv, U, L]`, or `[R, Hkv, U, 2, L]` for bounds;
    channels: `int32[Hkv, L]`, which channels of q the index holds, or None for all. -inf for units
    that do not lie below the row's length.
    """
    batch, heads, nodes, _ = q.shape
    kv_heads, units, width = index.shape[1], index.shape[2], index.shape[-1]
    q = q if q.stride(-1) == 1 else q.contiguous()
    assert index.is_contiguous() and q.dtype == index.dtype
    out = q.new_empty(batch, kv_heads, units, dtype=torch.float32)
    block = min(64, 16384 // (power_of_two(width) * index.element_size()))
    _score[(triton.cdiv(units, block), kv_heads, batch)](
        q, index, channels,
        length.to(q.device, non_blocking=True), row_map.to(q.device, non_blocking=True), out,
        *q.stride()[:3], nodes, units, unit,
        GROUP=heads // kv_heads, DIM=width, BOUNDS=index.dim() == 5,
        ROWS=ROWS, UNITS=block, WIDTH=power_of_two(width), enable_fp_fusion=True,
    )  # fmt: skip
    return out


@triton.jit
def _score(
    q, index, channels, length, row_map, out, q_b, q_h, q_n, nodes, units, unit,
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
    index += (row * tl.num_programs(1) + kv_head) * units * vectors * DIM
    at = u.to(tl.int64)[None, :] * vectors * DIM + d[:, None]
    held = (u < full)[None, :] & (d < DIM)[:, None]
    low = tl.load(index + at, mask=held, other=0.0)
    if BOUNDS:
        high = tl.load(index + at + DIM, mask=held, other=0.0)
    channel = d
    if channels is not None:
        channel = tl.load(channels + kv_head * DIM + d, mask=d < DIM, other=0)
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
        top = tl.maximum(top, tl.max(tl.where(live[:, None], s, float("-inf")), 0))
    tl.store(out + slot, tl.where(u < full, top, float("-inf")), mask=u < units)
