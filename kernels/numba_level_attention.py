"""Attention of a pass on a CPU: all levels, the staged tree and the merge in one call.

The work is cut into tasks: one KV head of one row of a level, and a part of its keys. The queries
that read this row (sequences that share it x tree nodes x heads of the group) are packed, so keys
and values are read once. Sixteen keys at a time are turned so that a lane is a key: scores then
need no sums across lanes. Partials are merged by their log-sum-exp at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numba import prange
from torch import Tensor

from specdec.kernels import simd
from specdec.kernels.level_attention import Reads
from specdec.kernels.level_attention import level_attention as op
from specdec.kernels.numba_options import OPTIONS, SERIAL, njit, num_threads

BLOCK = 128  # keys between two updates of the running maximum
MIN_PART = 128  # keys; a smaller part of a row is not worth a task
LEVEL, ROW, START, END, TAIL, FIRST, COUNT = range(7)  # columns of `Reads.table`
QUAD = (0,) * 4
NO_SINKS = np.empty(0, np.float32)


def level_attention(
    q: Tensor,
    levels: Sequence[tuple[Tensor, Tensor]],
    reads: Reads,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """See `specdec.kernels.level_attention`; head sizes that fill no vectors run in PyTorch."""
    batch, heads, nodes, dim = q.shape
    kv_heads = levels[0][0].shape[1]
    if dim % simd.LANES or levels[0][1].shape[-1] != dim:
        return op.plain(q, levels, reads, scale=scale, softcap=softcap, sinks=sinks)
    height = 4 if heads // kv_heads * nodes * int(reads.table[:, COUNT].max(initial=1)) <= 4 else 8
    vectors = dim // simd.LANES
    width = 4 if vectors % 4 == 0 else 2 if vectors % 2 == 0 else 1
    out = attention(
        q.contiguous().numpy().reshape(-1),
        tuple(k.numpy() for k, _ in levels),
        tuple(v.numpy() for _, v in levels),
        (batch, heads, kv_heads, nodes, dim),
        reads.table,
        reads.members,
        reads.anc,
        reads.bounds,
        np.float32(scale),
        np.float32(softcap or 0.0),
        NO_SINKS if sinks is None else sinks.detach().float().numpy(),
        num_threads(),
        (0,) * height,
        (0,) * width,
    )
    return torch.from_numpy(out).view(q.shape)


@njit(**OPTIONS)
def attention(
    q, ks, vs, shape, reads, members, anc, bounds, scale, softcap, sinks, threads, tile, width
):
    """Attention of `q[B, heads, nodes, dim]` over `reads` of the levels `ks`, `vs`, both flat.

    ks, vs: for each level its keys and values `[rows, kv_heads, capacity, dim]`.
    shape: (B, heads, kv_heads, nodes, dim).
    reads: `int64[R, 7]`: level, row, first key, end, tail (staged slots behind the end, which the
        ancestor masks rule; 0 for none), and which `members[first : first + count]` sequences read.
    anc: `uint64[B, nodes, words]`; bounds: `int64[R, count * nodes]` first visible keys, or empty.
    softcap 0 is none; sinks `[heads]` or empty; threads that the work is cut for. Returns o as q.
    """
    batch, heads, kv_heads, nodes, dim = shape
    group = heads // kv_heads
    tasks = plan(reads, kv_heads, threads)
    count = len(tasks)
    places = places_of(tasks, reads, nodes * group)
    o, top, total = partials(places[count], dim)
    for t in prange(count):
        i = tasks[t, 0]
        read = reads[i]
        level = read[LEVEL]
        bound = bounds[i] if bounds.size else bounds[:0].reshape(-1)
        attend_part(
            q, ks[level], vs[level], shape, read, tasks[t], members, anc, bound, scale, softcap,
            o[places[t] * dim : places[t + 1] * dim], top[places[t] : places[t + 1]],
            total[places[t] : places[t + 1]], tile, width,
        )  # fmt: skip
    return merged(o, top, total, shape, reads, members, tasks, places, sinks)


@njit(**SERIAL)
def padded(rows):
    """Packed query rows, up to whole tiles of any height."""
    return (rows + 7) // 8 * 8


@njit(**SERIAL)
def places_of(tasks, reads, queries):
    """Where each task's packed rows begin, and in the end how many there are."""
    places = np.zeros(len(tasks) + 1, np.int64)
    for t in range(len(tasks)):
        places[t + 1] = places[t] + padded(reads[tasks[t, 0], COUNT] * queries)
    return places


@njit(**SERIAL)
def partials(rows, dim):
    """Unnormalised outputs, running maxima and sums, before any key was seen."""
    return (
        np.zeros(rows * dim, np.float32),
        np.full(rows, -np.inf, np.float32),
        np.zeros(rows, np.float32),
    )


@njit(**SERIAL)
def plan(reads, kv_heads, threads):
    """Tasks `int64[T, 4]`: read, KV head, first key, end (the tail included)."""
    pieces = np.ones(len(reads), np.int64)
    for i in range(len(reads)):
        keys = reads[i, END] + reads[i, TAIL] - reads[i, START]
        pieces[i] = max(1, min(threads, keys // MIN_PART))
    out = np.empty((pieces.sum() * kv_heads, 4), np.int64)
    t = 0
    for i in range(len(reads)):
        start, end = reads[i, START], reads[i, END] + reads[i, TAIL]
        size = -(-(end - start) // pieces[i])
        for head in range(kv_heads):
            for piece in range(pieces[i]):
                out[t, 0], out[t, 1] = i, head
                out[t, 2], out[t, 3] = start + piece * size, min(end, start + (piece + 1) * size)
                t += 1
    return out


@njit(**SERIAL)
def attend_part(
    q, k, v, shape, read, task, members, anc, bound, scale, softcap, o, top, total, tile, width
):
    """One task: fills its unnormalised `o`, its running maxima and sums."""
    _, heads, kv_heads, nodes, dim = shape
    group, head = heads // kv_heads, task[1]
    rows = read[COUNT] * nodes * group
    packed = np.zeros(padded(rows) * dim, np.float32)
    for r in range(rows):
        b, g, node = members[read[FIRST] + r // (nodes * group)], r // nodes % group, r % nodes
        source = ((b * heads + head * group + g) * nodes + node) * dim
        for d in range(dim):
            packed[r * dim + d] = q[source + d] * scale
    capacity = k.shape[2]
    base = (read[ROW] * kv_heads + head) * capacity * dim
    keys, values = k.reshape(-1), v.reshape(-1)
    turned = np.empty(dim * simd.LANES, np.float32)
    scores = np.empty(padded(rows) * BLOCK, np.float32)
    for block in range(task[2], task[3], BLOCK):
        size = min(BLOCK, task[3] - block)
        for sub in range(0, size, simd.LANES):
            at, last = base + (block + sub) * dim, min(simd.LANES, size - sub) - 1
            for d in range(0, dim, simd.LANES):
                square = simd.transposed(simd.load_square(keys, at + d, dim, last))
                simd.store(square, turned, d * simd.LANES, simd.LANES, 1)
            for r in range(0, rows, len(tile)):
                acc = simd.zeros(tile, 1)
                for d in range(dim):
                    if r == 0:  # as many lines of values as there are columns of keys
                        simd.prefetch(values, at + d * simd.LANES)
                    column = simd.load(turned, d * simd.LANES, 1)
                    acc = simd.outer_fma(acc, column, packed, r * dim + d, dim)
                simd.store(acc, scores, r * BLOCK + sub, BLOCK, 1)
        whole = (size + simd.LANES - 1) // simd.LANES * simd.LANES
        for r in range(rows):
            line = scores[r * BLOCK : r * BLOCK + whole]
            line[size:] = -np.inf
            if softcap > 0:
                for c in range(size):
                    line[c] = softcap * math.tanh(line[c] / softcap)
            mask(line, block, size, read, members, anc, bound, r, nodes, group)
            take_up(line, whole, r, dim, o, top, total)
        for r in range(0, rows, len(QUAD)):
            for d in range(0, dim, len(width) * simd.LANES):
                acc = simd.load_tile(o, r * dim + d, dim, QUAD, width)
                for c in range(size):
                    at = base + (block + c) * dim + d
                    if r == 0:
                        for ahead in range(0, len(width) * simd.LANES, simd.LANES):
                            simd.prefetch(keys, at + BLOCK * dim + ahead)
                    acc = simd.outer_fma(
                        acc,
                        simd.load_tile(values, at, 0, (0,), width),
                        scores,
                        r * BLOCK + c,
                        BLOCK,
                    )
                simd.store(acc, o, r * dim + d, dim, len(width))


@njit(**SERIAL)
def mask(line, block, size, read, members, anc, bound, r, nodes, group):
    """Hide keys before the first visible one, and staged nodes that are no ancestors."""
    if bound.size:
        first = bound[r // (nodes * group) * nodes + r % nodes]
        for c in range(min(size, max(0, first - block))):
            line[c] = -np.inf
    if read[TAIL]:
        words = anc[members[read[FIRST]], r % nodes]
        for c in range(max(0, read[END] - block), size):
            slot = block + c - read[END]
            if not (words[slot >> 6] >> np.uint64(slot & 63)) & np.uint64(1):
                line[c] = -np.inf


@njit(**SERIAL)
def take_up(line, whole, r, dim, o, top, total):
    """Turn a line of scores into weights in place, relative to the new running maximum."""
    best = simd.load(line, 0, 1)
    for c in range(simd.LANES, whole, simd.LANES):
        best = simd.maximum(best, simd.load(line, c, 1))
    new = max(top[r], simd.max_lanes(best))
    if new == -np.inf:
        line[:] = 0
        return
    if new > top[r]:
        shrink = np.float32(math.exp(top[r] - new))
        total[r] *= shrink
        for d in range(dim):
            o[r * dim + d] *= shrink
        top[r] = new
    minus = simd.splat(best, np.float32(-new))
    added = simd.zeros((0,), 1)
    for c in range(0, whole, simd.LANES):
        weight = simd.exp_or_zero(simd.add(simd.load(line, c, 1), minus))
        simd.store(weight, line, c, simd.LANES, 1)
        added = simd.add(added, weight)
    total[r] += simd.sum_lanes(added)


@njit(**SERIAL)
def merged(o, top, total, shape, reads, members, tasks, places, sinks):
    """The partials of all tasks as one output; a query that saw no key gets 0."""
    batch, heads, kv_heads, nodes, dim = shape
    group = heads // kv_heads
    best = np.full(batch * heads * nodes, -np.inf, np.float32)
    weight = np.zeros(batch * heads * nodes, np.float32)
    out = np.zeros(batch * heads * nodes * dim, np.float32)
    if sinks.size:
        for i in range(best.size):
            best[i] = sinks[i // nodes % heads]
            weight[i] = 1
    for t in range(len(tasks)):
        read, head = reads[tasks[t, 0]], tasks[t, 1]
        for r in range(read[COUNT] * nodes * group):
            part = places[t] + r
            if total[part] == 0:
                continue
            b, g, node = members[read[FIRST] + r // (nodes * group)], r // nodes % group, r % nodes
            i = (b * heads + head * group + g) * nodes + node
            new = max(best[i], top[part])
            old, fresh = math.exp(best[i] - new), math.exp(top[part] - new)
            best[i] = new
            weight[i] = weight[i] * old + total[part] * fresh
            for d in range(dim):
                out[i * dim + d] = out[i * dim + d] * old + o[part * dim + d] * fresh
    for i in range(best.size):
        if weight[i] > 0:
            scale = np.float32(1) / weight[i]
            for d in range(dim):
                out[i * dim + d] *= scale
    return out
