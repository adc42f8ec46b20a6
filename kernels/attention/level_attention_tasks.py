"""How a pass of attention is cut into tasks, and how their partial results become one."""

from __future__ import annotations

import math

import numpy as np

from specdec.kernels.attention.level_attention import PART
from specdec.kernels.cpu import simd, simd_lanes, simd_memory
from specdec.kernels.cpu.jit import inner
from specdec.kernels.cpu.simd_types import LANES

MIN_PART = 128  # keys of chosen pages; a smaller part is not worth a task
NEVER = 1 << 62  # behind all positions
LOG2_E, LN_2 = 1.4426950408889634, 0.6931471805599453
LEVEL, ROW, START, END, TAIL, FIRST, COUNT, PAGED = range(8)  # columns of `Reads.table`
READ, HEAD, FROM, TO, LOW, HIGH = range(6)  # columns of a task


@inner
def plan(reads, pages, page_size, kv_heads, threads, bounded):
    """Tasks `int64[T, 6]`: read, KV head, first key, end (the tail included), and the positions
    that are seen, from the first on and below the last. bounded: whether keys before the first
    visible one are hidden, so that a read may begin earlier than it says.

    Keys of a read of pages are counted through its pages. All others are cut at fixed positions,
    whatever the length and the number of threads, so that a query has the same bits in any pass. A
    tail that reaches over a cut is read twice: each part sees the positions that are its own.
    """
    count = 0
    for i in range(len(reads)):
        simd.no_unroll()
        count += len(parts(reads[i], pages, page_size, threads, bounded))
    out = np.empty((count * kv_heads, 6), np.int64)
    t = 0
    for i in range(len(reads)):
        found = parts(reads[i], pages, page_size, threads, bounded)
        for head in range(kv_heads):
            for piece in range(len(found)):
                simd.no_unroll()
                out[t, READ], out[t, HEAD] = i, head
                for c in range(4):
                    out[t, FROM + c] = found[piece, c]
                t += 1
    return out


@inner
def parts(read, pages, page_size, threads, bounded):
    """The parts of a read, one at least: the last four columns of tasks."""
    if read[PAGED] > 0:
        keys = pages.shape[2] * page_size
        count = max(1, min(threads, keys // MIN_PART))
        size = -(-keys // count)
        even = np.empty((count, 4), np.int64)
        for i in range(count):
            simd.no_unroll()
            even[i, 0], even[i, 1] = i * size, min(keys, (i + 1) * size)
            even[i, 2], even[i, 3] = i * size, NEVER
        return even
    start = read[START] // LANES * LANES if bounded else read[START]
    end, last = read[END], read[END] + read[TAIL]
    count, low = 1, next_cut(start)
    while low < last:
        simd.no_unroll()
        count, low = count + 1, next_cut(low)
    out = np.empty((count, 4), np.int64)
    low = start
    for i in range(count):
        simd.no_unroll()
        high = next_cut(low)
        out[i, 0], out[i, 1] = min(low, end), high if high <= end else last
        out[i, 2], out[i, 3] = low, high
        low = high
    return out


@inner
def next_cut(at):
    """The next position after `at` at which keys are cut."""
    return (at // PART + 1) * PART


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
    """Unnormalised outputs, running maxima (as whole powers of two: see `update_softmax`), and
    running sums lane by lane, before any key."""
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
    for i in range(best.size):
        before_merging(best, weight, i, sinks, i // nodes % heads)
    for t in range(len(tasks)):
        read, head = reads[tasks[t, READ]], tasks[t, HEAD]
        for r in range(read[COUNT] * nodes * group):
            part = offsets[t] + r
            mass = simd_lanes.sum_lanes(simd_memory.load(total, part * LANES, 1))
            b, g, node = members[read[FIRST] + r // (nodes * group)], r // nodes % group, r % nodes
            i = (b * heads + head * group + g) * nodes + node
            merge_row(o, part, top[part], mass, out, i, best, weight, dim)
    for i in range(best.size):
        finish(out, i, best, weight, dim)
    return out, best


@inner
def before_merging(best, weight, i, sinks, head):
    """Row i before any partial has been merged into it: a sink, if there are any, or nothing."""
    best[i], weight[i] = -np.inf, 0
    if sinks.size:
        sink = float(sinks[head])
        best[i] = math.ceil(sink * LOG2_E)
        weight[i] = math.exp(sink - best[i] * LN_2)


@inner
def merge_row(o, part, top, mass, out, i, best, weight, dim):
    """Merge row `part` of unnormalised outputs into row i, in place. top: its running maximum;
    mass: its sum, 0 for none."""
    if mass == 0:
        return
    new = max(best[i], top)
    old, fresh = simd.power_of_two(best[i] - new), simd.power_of_two(top - new)
    best[i] = new
    weight[i] = weight[i] * old + mass * fresh
    for d in range(0, dim, LANES):  # head sizes are whole vectors
        added = simd_memory.load(o, part * dim + d, 1)
        added = simd.multiply(added, simd.splat(added, fresh))
        so_far = simd_memory.load(out, i * dim + d, 1)
        whole = simd.fma(so_far, simd.splat(so_far, old), added)
        simd_memory.store(whole, out, i * dim + d, 0, 1)


@inner
def finish(out, i, best, weight, dim):
    """Row i divided by its weight, and its lse in the place of its maximum, in place."""
    if weight[i] > 0:
        scale = np.float32(1) / weight[i]
        for d in range(0, dim, LANES):
            line = simd_memory.load(out, i * dim + d, 1)
            line = simd.multiply(line, simd.splat(line, scale))
            simd_memory.store(line, out, i * dim + d, 0, 1)
        best[i] = np.float32(best[i] * LN_2 + math.log(weight[i]))
