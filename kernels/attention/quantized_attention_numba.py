"""quantized_attention on a CPU: a block of codes becomes numbers in the first cache, then attends.

The tasks are those of `numba_level_attention`. A block of keys is read as codes, widened and scaled
in registers and transposed, so that memory is read in the few bits that the copy has.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from specdec.kernels.attention.level_attention import NO_BOUNDS, NO_PAGES, NO_STAGED
from specdec.kernels.attention.level_attention_numba import NO_SINKS, across
from specdec.kernels.attention.level_attention_part import (
    add_in_lanes,
    hide,
    locate,
    packed_queries,
    update_softmax,
)
from specdec.kernels.attention.level_attention_tasks import (
    COUNT,
    FROM,
    HEAD,
    READ,
    ROW,
    TO,
    merged,
    padded,
    partials,
    plan,
    row_offsets,
)
from specdec.kernels.attention.level_attention_tiles import (
    BLOCK,
    LINE,
    NEVER,
    ONE,
    TILE,
    add_values,
    score,
    transpose_keys,
)
from specdec.kernels.attention.prefix_attention_numba import MANY, row_reads
from specdec.kernels.attention.quantized_attention import quantized_attention as op
from specdec.kernels.cache.quantize_kv import QuantizedKV
from specdec.kernels.cpu import simd, simd_memory
from specdec.kernels.cpu.jit import OPTIONS, inner, njit, num_threads
from specdec.kernels.cpu.simd_types import LANES

NO_BOUND = NO_BOUNDS.reshape(-1)
TWO = (0, 0)


def quantized_attention(
    q: Tensor,
    kv: QuantizedKV,
    length: Tensor,
    row_map: Tensor,
    *,
    scale: float,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """See `quantized_attention`; prompts and odd head sizes run in PyTorch."""
    batch, heads, nodes, dim = q.shape
    if nodes > MANY or not fits(kv):
        return op.plain(q, kv, length, row_map, scale=scale, softcap=softcap)
    reads = row_reads(length, row_map)
    o, lse = _attention(
        q.contiguous().numpy().reshape(-1),
        tuple([x.numpy().reshape(-1) for x in kv]),
        (batch, heads, kv.k.shape[1], nodes, dim),
        (kv.k.shape[2], kv.group, kv.value_group, kv.bits),
        reads.table,
        reads.members,
        np.float32(scale),
        np.float32(softcap or 0.0),
        num_threads(),
        across(dim // LANES),
    )
    return torch.from_numpy(o.reshape(q.shape)), torch.from_numpy(lse.reshape(q.shape[:3]))


def fits(kv: QuantizedKV) -> bool:
    """Whether bytes and scales of a head fill whole vectors, and stand as the kernel takes them."""
    together = max(2, 8 // kv.bits) * LANES  # numbers that a load makes
    sizes = kv.dim % together == 0 and kv.value_dim == kv.dim and kv.value_group % LANES == 0
    return sizes and all(x.is_contiguous() for x in kv) and kv.k_scales.dtype == torch.float32


@njit(**OPTIONS)
def _attention(q, kv, shape, layout, reads, members, scale, softcap, threads, width):
    """o and the lse of `q[B, heads, nodes, dim]`, flat, over the first keys of some rows.

    kv: the four parts of a `QuantizedKV`, flat. shape: (B, heads, kv_heads, nodes, dim); layout:
    (capacity, tokens of a key's group, channels of a value's, bits).
    """
    _, heads, kv_heads, nodes, dim = shape
    tasks = plan(reads, NO_PAGES, 1, kv_heads, threads, False)
    count = len(tasks)
    offsets = row_offsets(tasks, reads, nodes * (heads // kv_heads))
    o, top, total = partials(offsets[count], dim)
    for t in prange(count):
        at, to = offsets[t], offsets[t + 1]
        _attend_part(
            q, kv, shape, layout, reads[tasks[t, READ]], tasks[t], members, scale, softcap,
            o[at * dim : to * dim], top[at:to], total[at * LANES : to * LANES], width,
        )  # fmt: skip
    return merged(o, top, total, shape, reads, members, tasks, offsets, NO_SINKS)


@inner
def _attend_part(q, kv, shape, layout, read, task, members, scale, softcap, o, top, total, width):
    """One task, as `numba_attention_part.attend_part` does it."""
    _, heads, kv_heads, nodes, dim = shape
    k, k_scales, v, v_scales = kv
    capacity, group, value_group, bits = layout
    rows = read[COUNT] * nodes * (heads // kv_heads)
    packed = packed_queries(q, shape, read, task[HEAD], members, scale)
    first = (read[ROW] * kv_heads + task[HEAD]) * capacity  # token of the level
    size_of = dim * bits // 8
    numbers, columns = np.empty(BLOCK * dim, np.float32), np.empty(dim * BLOCK, np.float32)
    scores = np.empty(padded(rows) * BLOCK, np.float32)
    here = np.empty(BLOCK, np.int64)
    for block in range(task[FROM], task[TO], BLOCK):
        size = min(BLOCK, task[TO] - block)
        locate(here, 0, size, here[:0], 0, dim)
        for at in range(
            (first + block + BLOCK) * size_of, (first + block + 2 * BLOCK) * size_of, 4 * LINE
        ):
            simd_memory.prefetch(k, at)
            simd_memory.prefetch(v, at)
        for c in range(size):
            token = first + block + c
            scales = token // group * 2 * dim
            _restore_key(k, token * size_of, k_scales, scales, dim, bits, numbers, c * dim)
        transpose_keys(numbers, here, size, dim, columns)
        for r in range(0, rows, len(TILE)):
            score(columns, packed, r, dim, scores, numbers, here, NEVER, 0)
        for r in range(rows):
            hide(scores, block, size, read, task, members, NO_STAGED, NO_BOUND, r, shape, softcap)
        update_softmax(scores, rows, dim, o, top, total)
        add_in_lanes(scores, rows, total)
        parts = dim // value_group
        for c in range(size):
            token = first + block + c
            scales = token * 2 * parts
            _restore_value(v, token * size_of, v_scales, scales, value_group, dim, bits, numbers,
                           c * dim)  # fmt: skip
        for r in range(0, rows, len(TILE)):
            add_values(numbers, here, size, scores, r, dim, o, numbers, here, NEVER, 0, width)


@inner
def _restore_key(codes, at, scales, place, dim, bits, out, to):
    """One key: code * step + low, with a step and a low for each channel."""
    apart = _apart(dim, bits)
    for i in range(0, dim // 2, LANES):
        d = _channel(i, dim, bits)
        step = simd_memory.load_tile(scales, place + d, apart, TWO, ONE)
        low = simd_memory.load_tile(scales, place + dim + d, apart, TWO, ONE)
        x = simd.fma(_codes(codes, at, i, dim, bits), step, low)
        simd_memory.store(x, out, to + d, apart, 1)


@inner
def _restore_value(codes, at, scales, place, group, dim, bits, out, to):
    """One value, with a step and a low for each group of channels."""
    apart, parts = _apart(dim, bits), dim // group
    for i in range(0, dim // 2, LANES):
        d = _channel(i, dim, bits)
        first, more = place + d // group, (d + apart) // group - d // group
        step = simd_memory.load_splats(scales, first, more)
        low = simd_memory.load_splats(scales, first + parts, more)
        x = simd.fma(_codes(codes, at, i, dim, bits), step, low)
        simd_memory.store(x, out, to + d, apart, 1)


@inner
def _apart(dim, bits):
    """Channels between the two vectors of a load."""
    return LANES if bits == 8 else dim * bits // 8


@inner
def _channel(i, dim, bits):
    """The first channel of load i / LANES: see `codes.pack`. In 2 bits each byte is read twice."""
    if bits == 8:
        return 2 * i
    return i if bits == 4 else i + i // (dim // 4) * (dim // 4)


@inner
def _codes(codes, at, i, dim, bits):
    """Two vectors of codes: 32 bytes, or two parts of sixteen."""
    if bits == 8:
        return simd_memory.load(codes, at + 2 * i, 2)
    if bits == 4:
        return simd_memory.load_nibbles(codes, at + i, 0)
    return simd_memory.load_crumbs(codes, at + i % (dim // 4), i // (dim // 4) * 4)
