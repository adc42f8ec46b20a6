"""How a pass of attention is cut into tasks, and how their partial results become one."""

from __future__ import annotations

import math

import numpy as np

from specdec.kernels.cpu import simd, simd_lanes, simd_memory
from specdec.kernels.cpu.jit import inner
from specdec.kernels.cpu.simd_types import LANES

MIN_PART = 128  # keys; a smaller part of a row is not worth a task
LEVEL, ROW, START, END, TAIL, FIRST, COUNT, PAGED = range(8)  # columns of `Reads.table`
READ, HEAD, FROM, TO = range(4)  # columns of a task


@inner
def plan(reads, pages, page_size, kv_heads, threads):
    """Tasks `int64[T, 4]`: read, KV head, first key, end (the tail included).

    Keys of a read of pages are counted through its pages.
    """
    starts, ends = np.empty(len(reads), np.int64), np.empty(len(reads), np.int64)
    pieces = np.ones(len(reads), np.int64)
    for i in range(len(reads)):
        simd.no_unroll()
        if reads[i, PAGED] > 0:
            starts[i], ends[i] = 0, pages.shape[2] * page_size
        else:
            starts[i], ends[i] = reads[i, START], reads[i, END] + reads[i, TAIL]
        pieces[i] = max(1, min(threads, (ends[i] - starts[i]) // MIN_PART))
    out = np.empty((pieces.sum() * kv_heads, 4), np.int64)
    t = 0
    for i in range(len(reads)):
        size = -(-(ends[i] - starts[i]) // pieces[i])
        for head in range(kv_heads):
            for piece in range(pieces[i]):
                simd.no_unroll()
                out[t, READ], out[t, HEAD] = i, head
                out[t, FROM] = starts[i] + piece * size
                out[t, TO] = min(ends[i], starts[i] + (piece + 1) * size)
                t += 1
    return out


@inner
def padded(rows):
    """Packed query rows, up to whole tiles."""
    return (rows + 3) // 4 * 4


@inner
def row_offsets(tasks, reads, queries):
    """Where each task's packed rows begin, and in the end how many there are."""
    offsets = np.zeros(len(tasks) + 1, np.int64)
    for t in range(len(tasks)):
        simd.no_unroll()
        offsets[t + 1] = offsets[t] + padded(reads[tasks[t, READ], COUNT] * queries)
    return offsets


@inner
def partials(rows, dim):
    """Unnormalised outputs, running maxima, and running sums lane by lane, before any key."""
    return (
        np.zeros(rows * dim, np.float32),
        np.full(rows, -np.inf, np.float32),
        np.zeros(rows * LANES, np.float32),
    )


@inner
def merged(o, top, total, shape, reads, members, tasks, offsets, sinks):
    """The partials of all tasks as one output and its lse; a query that saw no key gets 0, -inf."""
    batch, heads, kv_heads, nodes, dim = shape
    group = heads // kv_heads
    best = np.full(batch * heads * nodes, -np.inf, np.float32)
    weight = np.zeros(batch * heads * nodes, np.float32)
    out = np.zeros(batch * heads * nodes * dim, np.float32)
    if sinks.size:
        for i in range(best.size):
            simd.no_unroll()
            best[i] = sinks[i // nodes % heads]
            weight[i] = 1
    for t in range(len(tasks)):
        read, head = reads[tasks[t, READ]], tasks[t, HEAD]
        for r in range(read[COUNT] * nodes * group):
            part = offsets[t] + r
            mass = simd_lanes.sum_lanes(simd_memory.load(total, part * LANES, 1))
            if mass == 0:
                continue
            b, g, node = members[read[FIRST] + r // (nodes * group)], r // nodes % group, r % nodes
            i = (b * heads + head * group + g) * nodes + node
            new = max(best[i], top[part])
            old = np.float32(math.exp(best[i] - new))
            fresh = np.float32(math.exp(top[part] - new))
            best[i] = new
            weight[i] = weight[i] * old + mass * fresh
            for d in range(0, dim, LANES):  # head sizes are whole vectors
                added = simd_memory.load(o, part * dim + d, 1)
                added = simd.multiply(added, simd.splat(added, fresh))
                so_far = simd_memory.load(out, i * dim + d, 1)
                whole = simd.fma(so_far, simd.splat(so_far, old), added)
                simd_memory.store(whole, out, i * dim + d, 0, 1)
    for i in range(best.size):
        if weight[i] > 0:
            scale = np.float32(1) / weight[i]
            for d in range(0, dim, LANES):
                line = simd_memory.load(out, i * dim + d, 1)
                line = simd.multiply(line, simd.splat(line, scale))
                simd_memory.store(line, out, i * dim + d, 0, 1)
            best[i] += np.float32(math.log(weight[i]))
    return out, best
