"""One task of attention on a CPU: the packed queries of one KV head over a part of a row's keys.

A block of keys, its scores and its values stay in the first cache while all queries pass over them;
the next block is prefetched meanwhile.
"""

from __future__ import annotations

import math

import numpy as np

from specdec.kernels.attention.level_attention_tasks import (
    COUNT,
    END,
    FIRST,
    FROM,
    HEAD,
    HIGH,
    LOG2_E,
    LOW,
    PAGED,
    ROW,
    TAIL,
    TO,
    padded,
)
from specdec.kernels.attention.level_attention_tiles import (
    ACROSS,
    BLOCK,
    TILE,
    VECTORS,
    add_values,
    pace_of,
    prefetch_block,
    score,
    transpose_keys,
    turn_of,
)
from specdec.kernels.cpu import simd, simd_lanes, simd_memory
from specdec.kernels.cpu.jit import INNER, inner, njit
from specdec.kernels.cpu.simd_types import LANES


@njit(**INNER)
def attend_part(
    q, keys, values, capacity, shape, read, task, members, anc, bound, pages, page_size, biases,
    scale, softcap, o, top, total, width,
):  # fmt: skip
    """One task: fills its unnormalised `o`, its running maxima, and its sums lane by lane."""
    _, heads, kv_heads, nodes, dim = shape
    rows = read[COUNT] * nodes * (heads // kv_heads)
    packed = packed_queries(q, shape, read, task[HEAD], members, scale)
    base = (read[ROW] * kv_heads + task[HEAD]) * capacity * dim
    columns = np.empty(dim * BLOCK, np.float32)
    scores = np.empty(padded(rows) * BLOCK, np.float32)
    here, ahead = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
    slots, start, end = here[:0], task[FROM], task[TO]
    if read[PAGED] > 0:
        slots = paged_slots(pages[read[PAGED] - 1, task[HEAD]], page_size, start, end, read[END])
        start, end = 0, len(slots)
    pace = pace_of(dim)
    locate(ahead, start, end, slots, base, dim)
    prefetch_block(keys, values, ahead, min(BLOCK, end - start), dim)
    for block in range(start, end, BLOCK):
        here, ahead = ahead, here
        locate(ahead, block + BLOCK, end, slots, base, dim)
        size = min(BLOCK, end - block)
        transpose_keys(keys, here, size, dim, columns)
        for r in range(0, rows, len(TILE)):
            turn = turn_of(r // len(TILE), rows)
            share = ahead[r // len(TILE) * BLOCK >> turn :]
            score(columns, packed, r, dim, scores, values, share, turn, pace)
        if size < BLOCK or softcap > 0 or bound.size or (read[TAIL] and block + size > read[END]):
            for r in range(rows):
                hide(scores, block, size, read, task, members, anc, bound, r, shape, softcap)
        if read[PAGED] < 0:
            add_bias(scores, rows, block, size, biases[-read[PAGED] - 1, task[HEAD]])
        update_softmax(scores, rows, dim, o, top, total)
        if read[TAIL] and block + size > read[END]:
            for r in range(rows):
                add_in_path(scores, block, size, read, task, members, anc, r, shape, total)
        else:
            add_in_lanes(scores, rows, total)
        for r in range(0, rows, len(TILE)):
            turn = turn_of(r // len(TILE), rows)
            share = ahead[r // len(TILE) * BLOCK >> turn :]
            add_values(values, here, size, scores, r, dim, o, keys, share, turn, pace, width)


@inner
def packed_queries(q, shape, read, head, members, scale):
    """The scaled queries that read a row: sequences x heads of the group x nodes."""
    _, heads, kv_heads, nodes, dim = shape
    group = heads // kv_heads
    rows = read[COUNT] * nodes * group
    packed = np.zeros(padded(rows) * dim, np.float32)
    for r in range(rows):
        b, g, node = members[read[FIRST] + r // (nodes * group)], r // nodes % group, r % nodes
        source = ((b * heads + head * group + g) * nodes + node) * dim
        for d in range(0, dim, LANES):
            line = simd_memory.load(q, source + d, 1)
            line = simd.multiply(line, simd.splat(line, scale))
            simd_memory.store(line, packed, r * dim + d, 0, 1)
    return packed


@inner
def paged_slots(pages, page_size, start, end, length):
    """The key slots below `length` of a part of some pages; -1 is no page."""
    slots = np.empty(max(0, end - start), np.int64)
    n = 0
    for i in range(start, end):
        simd.no_unroll()
        page = pages[i // page_size]
        slot = page * page_size + i % page_size
        if page >= 0 and slot < length:
            slots[n] = slot
            n += 1
    return slots[:n]


@inner
def locate(where, block, end, slots, base, dim):
    """Where the keys from `block` on begin; behind the end, where the last one does."""
    for c in range(BLOCK):
        key = min(block + c, end - 1)
        where[c] = base + (slots[key] if slots.size else key) * dim


@inner
def hide(scores, block, size, read, task, members, anc, bound, r, shape, softcap):
    """One line of scores: cap them; hide what is no key, keys before the first visible one, and
    staged nodes that are no ancestors, or at positions of another part."""
    _, heads, kv_heads, nodes, _ = shape
    at = r * BLOCK
    for c in range(at + size, at + BLOCK):
        simd.no_unroll()
        scores[c] = -np.inf
    if softcap > 0:
        cap(scores, at, size, softcap)
    if bound.size:
        first = bound[r // (nodes * (heads // kv_heads)) * nodes + r % nodes]
        for c in range(min(size, max(0, first - block))):
            simd.no_unroll()
            scores[at + c] = -np.inf
    if read[TAIL]:
        words = anc[members[read[FIRST]], r % nodes]
        position = first_position(words, block, read)
        for c in range(max(0, read[END] - block), size):
            is_seen = is_ancestor(words, block + c - read[END])
            if not is_seen or position < task[LOW] or position >= task[HIGH]:
                scores[at + c] = -np.inf
            position += is_seen


@inner
def cap(scores, at, size, softcap):
    """A soft cap on some scores, in place."""
    for c in range(at, at + size):
        simd.no_unroll()
        scores[c] = softcap * math.tanh(scores[c] / softcap)


@inner
def is_ancestor(words, slot):
    """Whether a staged slot is in an ancestor mask."""
    return (words[slot >> 6] >> np.uint64(slot & 63)) & np.uint64(1) != 0


@inner
def first_position(words, block, read):
    """The position of the first ancestor that is staged in a block or after it: they follow the
    keys before the tail, and each other."""
    position = read[END]
    for slot in range(block - read[END]):
        simd.no_unroll()
        position += is_ancestor(words, slot)
    return position


@inner
def add_bias(scores, rows, block, size, bias):
    """Add a number to the scores of each key of a block, for all queries."""
    for r in range(rows):
        for c in range(size):
            simd.no_unroll()
            scores[r * BLOCK + c] += bias[block + c]


@inner
def update_softmax(scores, rows, dim, o, top, total):
    """Turn lines of scores into weights in place, relative to the new running maxima.

    Maxima are kept as the whole powers of two above them. So whatever they were on the way, outputs
    and sums that were made smaller have lost no bit, and the result is that of the last one.
    """
    for r in range(rows):
        line = simd_memory.load(scores, r * BLOCK, ACROSS)
        best = np.float32(math.ceil(simd_lanes.max_lanes(line) * np.float32(LOG2_E)))
        if best > top[r]:
            shrink = simd.power_of_two(top[r] - best)
            sums = simd_memory.load(total, r * LANES, 1)
            sums = simd.multiply(sums, simd.splat(sums, shrink))
            simd_memory.store(sums, total, r * LANES, 0, 1)
            for d in range(r * dim, (r + 1) * dim, LANES):
                part = simd_memory.load(o, d, 1)
                simd_memory.store(simd.multiply(part, simd.splat(part, shrink)), o, d, 0, 1)
            top[r] = best
    for r in range(rows):  # apart from the maxima, so that rows do not wait for each other
        line = simd_memory.load(scores, r * BLOCK, ACROSS)
        weights = simd.exp_over_power(line, simd.splat(line, top[r]))
        simd_memory.store(weights, scores, r * BLOCK, 0, VECTORS)


@inner
def add_in_lanes(scores, rows, total):
    """Add a block of weights to the sums, each to the lane of its key, in the order of keys."""
    for r in range(rows):
        sums = simd_memory.load(total, r * LANES, 1)
        for c in range(0, BLOCK, LANES):
            sums = simd.add(sums, simd_memory.load(scores, r * BLOCK + c, 1))
        simd_memory.store(sums, total, r * LANES, 0, 1)


@inner
def add_in_path(scores, block, size, read, task, members, anc, r, shape, total):
    """The same of one line in a block with staged nodes, which have the lanes of their positions:
    those that they will have once their path is committed."""
    nodes = shape[3]
    words = anc[members[read[FIRST]], r % nodes]
    position = first_position(words, block, read)
    for c in range(size):
        key = block + c
        if key >= read[END]:
            if not is_ancestor(words, key - read[END]):
                continue
            key = position
            position += 1
        total[r * LANES + (key - task[LOW]) % LANES] += scores[r * BLOCK + c]
