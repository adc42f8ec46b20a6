"""chunk_attention on a CPU: the heads of a group and some tokens at a time, over all their keys.

Such a tile goes through the keys in parts that begin at fixed positions, and merges one after the
other. So each token does what it would do as a node of a tree, in the same order.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numba import prange
from torch import Tensor

from specdec.kernels.attention.chunk_attention import ChunkReads
from specdec.kernels.attention.chunk_attention import chunk_attention as op
from specdec.kernels.attention.level_attention import PART
from specdec.kernels.attention.level_attention_numba import NO_SINKS, across, fits
from specdec.kernels.attention.level_attention_part import (
    add_in_lanes,
    cap,
    locate,
    update_softmax,
)
from specdec.kernels.attention.level_attention_tasks import (
    before_merging,
    finish,
    merge_row,
    padded,
)
from specdec.kernels.attention.level_attention_tiles import (
    BLOCK,
    TILE,
    add_values,
    pace_of,
    prefetch_block,
    score,
    transpose_keys,
    turn_of,
)
from specdec.kernels.cpu import simd, simd_lanes, simd_memory
from specdec.kernels.cpu.array_pointers import (
    CAPACITY,
    KEYS,
    ROWS,
    VALUES,
    floats_at,
    pointers_of_levels,
)
from specdec.kernels.cpu.function_pointers import address_of, call_pointer
from specdec.kernels.cpu.jit import INNER, OPTIONS, inner, njit, num_threads
from specdec.kernels.cpu.simd_types import LANES
from specdec.kernels.cpu.work_stealing import next_piece, num_shares, shares

QUERIES = 64  # rows of a tile: tokens times heads of a group
LEVEL, ROW, LENGTH, OFFSET = range(4)  # columns of `ChunkReads.table`


def chunk_attention(
    q: Tensor,
    levels: Sequence[tuple[Tensor, Tensor]],
    reads: ChunkReads,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """See `chunk_attention`; head sizes that fill no vectors run in PyTorch."""
    if not fits(q, levels[0][1]):
        return op.plain(q, levels, reads, scale=scale, softcap=softcap, sinks=sinks)
    _, heads, count, dim = q.shape
    levels = [(k.contiguous(), v.contiguous()) for k, v in levels]  # alive while we have addresses
    num_threads()
    width = across(dim // LANES)
    o = _attention(
        q.contiguous().numpy().reshape(-1),
        pointers_of_levels(levels),
        (heads, levels[0][0].shape[1], count, dim),
        np.ascontiguousarray(reads.table),
        np.ascontiguousarray(reads.first),
        np.ascontiguousarray(reads.end),
        np.float32(scale),
        np.float32(softcap or 0.0),
        NO_SINKS if sinks is None else sinks.detach().float().numpy(),
        width,
        tile_at(width),
    )
    return torch.from_numpy(o.reshape(q.shape))


@functools.cache
def tile_at(width: tuple[int, ...]) -> int:
    """The address of `attend_tile` for such outputs."""
    some, whole, one = np.empty(0, np.float32), np.empty(0, np.int64), np.float32(0)
    levels = np.empty((0, 4), np.int64)
    given = some, levels, (0,) * 4, levels, whole, whole, (0,) * 3
    return address_of(attend_tile, *given, one, one, some, some, width)


@njit(**OPTIONS)
def _attention(q, levels, shape, table, first, end, scale, softcap, sinks, width, tile):
    """o `[heads, count, dim]`, flat, as q. levels: `pointers_of_levels`; shape: (heads, kv_heads,
    count, dim); table, first, end: of `ChunkReads`; tile: `tile_at` the width."""
    heads, kv_heads, count, _ = shape
    size = max(1, QUERIES * kv_heads // heads)
    tiles = (count + size - 1) // size
    out = _like(q)
    pieces = tiles * kv_heads
    todo = shares(pieces)
    for thread in prange(num_shares(todo)):
        while True:
            t = next_piece(todo, thread, pieces)
            if t < 0:
                break
            start = (tiles - 1 - t % tiles) * size  # those with most keys first
            which = t // tiles, start, min(count, start + size)
            given = q, levels, shape, table, first, end, which, scale, softcap, sinks, out, width
            call_pointer(attend_tile, tile, given)
    return out


@inner
def _like(x):
    return np.empty_like(x)


@njit(**INNER)
def attend_tile(q, levels, shape, table, first, end, which, scale, softcap, sinks, out, width):
    """Write the outputs of tokens `start .. stop` in the heads of one group: which (KV head, start,
    stop)."""
    heads, kv_heads, count, dim = shape
    head, start, stop = which
    group, nodes = heads // kv_heads, stop - start
    rows = group * nodes
    packed = _packed(q, shape, which, scale)
    columns, scores = np.empty(dim * BLOCK, np.float32), np.zeros(padded(rows) * BLOCK, np.float32)
    o, top = np.empty(padded(rows) * dim, np.float32), np.empty(padded(rows), np.float32)
    total = np.empty(padded(rows) * LANES, np.float32)
    made, best, weight = np.zeros(rows * dim, np.float32), top.copy(), top.copy()
    for r in range(rows):
        before_merging(best, weight, r, sinks, head * group + r // nodes)
    here, ahead = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
    pace = pace_of(dim)
    low, high = first[start:stop].min(), end[start:stop].max()
    seen_by_all = first[start:stop].max(), end[start:stop].min()
    for i in range(len(table)):
        level, offset = levels[table[i, LEVEL]], table[i, OFFSET]
        size = level[ROWS] * kv_heads * level[CAPACITY] * dim
        keys, values = floats_at(level[KEYS], size), floats_at(level[VALUES], size)
        base = (table[i, ROW] * kv_heads + head) * level[CAPACITY] * dim
        at = max(0, low - offset) // LANES * LANES
        last = min(table[i, LENGTH], high - offset)
        is_first = True
        while at < last:
            to = min(last, (at // PART + 1) * PART)
            o[:], top[:], total[:] = 0, -np.inf, 0
            locate(ahead, at, to, here[:0], base, dim)
            if is_first:
                prefetch_block(keys, values, ahead, min(BLOCK, to - at), dim)
                is_first = False
            for block in range(at, to, BLOCK):
                here, ahead = ahead, here
                locate(ahead, block + BLOCK, last, here[:0], base, dim)
                width_here = min(BLOCK, to - block)
                transpose_keys(keys, here, width_here, dim, columns)
                for r in range(0, rows, len(TILE)):
                    turn = turn_of(r // len(TILE), rows)
                    share = ahead[r // len(TILE) * BLOCK >> turn :]
                    score(columns, packed, r, dim, scores, values, share, turn, pace)
                place = offset + block
                is_whole = place >= seen_by_all[0] and place + BLOCK <= seen_by_all[1]
                if softcap > 0 or width_here < BLOCK or not is_whole:
                    for r in range(rows):
                        node = start + r % nodes
                        if softcap > 0:
                            cap(scores, r * BLOCK, width_here, softcap)
                        _hide(scores, r * BLOCK, first[node] - place,
                              min(width_here, end[node] - place))  # fmt: skip
                update_softmax(scores, rows, dim, o, top, total)
                add_in_lanes(scores, rows, total)
                for r in range(0, rows, len(TILE)):
                    turn = turn_of(r // len(TILE), rows)
                    share = ahead[r // len(TILE) * BLOCK >> turn :]
                    add_values(
                        values, here, width_here, scores, r, dim, o, keys, share, turn, pace, width
                    )
            for r in range(rows):
                mass = simd_lanes.sum_lanes(simd_memory.load(total, r * LANES, 1))
                merge_row(o, r, top[r], mass, made, r, best, weight, dim)
            at = to
    for r in range(rows):
        finish(made, r, best, weight, dim)
        to = ((head * group + r // nodes) * count + start + r % nodes) * dim
        for d in range(0, dim, LANES):
            simd_memory.store(simd_memory.load(made, r * dim + d, 1), out, to + d, 0, 1)


@inner
def _packed(q, shape, which, scale):
    """The scaled queries of a tile, head by head."""
    heads, kv_heads, count, dim = shape
    head, start, stop = which
    group, nodes = heads // kv_heads, stop - start
    packed = np.zeros(padded(group * nodes) * dim, np.float32)
    for r in range(group * nodes):
        source = ((head * group + r // nodes) * count + start + r % nodes) * dim
        for d in range(0, dim, LANES):
            line = simd_memory.load(q, source + d, 1)
            line = simd.multiply(line, simd.splat(line, scale))
            simd_memory.store(line, packed, r * dim + d, 0, 1)
    return packed


@inner
def _hide(scores, at, low, high):
    """Hide the keys of a line of scores before `low` and from `high` on."""
    for c in range(min(BLOCK, max(0, low))):
        simd.no_unroll()
        scores[at + c] = -np.inf
    for c in range(max(0, high), BLOCK):
        simd.no_unroll()
        scores[at + c] = -np.inf
