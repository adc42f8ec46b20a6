"""One task of attention on a CPU: the packed queries of one KV head over a part of a row's keys.

Sixteen keys at a time are turned so that a lane is a key: scores then need no sums across lanes. A
block of keys, its scores and its values stay in the first cache while all queries pass over them;
the block after it is asked for meanwhile.
"""

from __future__ import annotations

import math

import numpy as np

from specdec.kernels import simd, simd_memory
from specdec.kernels.numba_attention_tasks import (
    COUNT,
    END,
    FIRST,
    FROM,
    HEAD,
    PAGED,
    ROW,
    TAIL,
    TO,
    padded,
)
from specdec.kernels.numba_options import INNER, inner, njit
from specdec.kernels.numba_row_dots import row_dots
from specdec.kernels.registers import HAS_32_WIDE_REGISTERS
from specdec.kernels.simd_type import LANES

BLOCK = 4 * LANES  # keys between two updates of the running maximum
TILE = (0,) * 4  # query rows whose accumulators are in registers, of `VECTORS` each
VECTORS = 4 if HAS_32_WIDE_REGISTERS else 1
ACROSS = (0,) * VECTORS
LINE = 16  # numbers of a cache line
NEVER = -1  # the turn of a tile that asks for nothing ahead
ONE = (0,)


@njit(**INNER)
def attend_part(
    q, keys, values, capacity, shape, read, task, members, anc, bound, pages, page_size, scale,
    softcap, o, top, total, width,
):  # fmt: skip
    """One task: fills its unnormalised `o`, its running maxima, and its sums lane by lane."""
    _, heads, kv_heads, nodes, dim = shape
    rows = read[COUNT] * nodes * (heads // kv_heads)
    packed = packed_queries(q, shape, read, task[HEAD], members, scale)
    base = (read[ROW] * kv_heads + task[HEAD]) * capacity * dim
    turned = np.empty(dim * BLOCK, np.float32)
    scores = np.empty(padded(rows) * BLOCK, np.float32)
    here, ahead = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
    slots, start, end = here[:0], task[FROM], task[TO]
    if read[PAGED]:
        slots = paged_slots(pages[read[PAGED] - 1, task[HEAD]], page_size, start, end, read[END])
        start, end = 0, len(slots)
    turns = 1 if rows <= 4 else 2 if rows <= 12 else 4
    locate(ahead, start, end, slots, base, dim)
    ask_for_block(keys, values, ahead, min(BLOCK, end - start), dim)
    for block in range(start, end, BLOCK):
        here, ahead = ahead, here
        locate(ahead, block + BLOCK, end, slots, base, dim)
        size = min(BLOCK, end - block)
        if rows <= 4:
            score_few(keys, here, size, packed, rows, dim, scores, values, ahead)
        else:
            turn_keys(keys, here, size, dim, turned)
            for r in range(0, rows, len(TILE)):
                score(turned, size, packed, r, dim, scores, values, ahead, r // len(TILE), turns)
        if size < BLOCK or softcap > 0 or bound.size or (read[TAIL] and block + size > read[END]):
            for r in range(rows):
                hide(scores, block, size, read, members, anc, bound, r, shape, softcap)
        take_up(scores, rows, dim, o, top, total)
        for r in range(0, rows, len(TILE)):
            turn = r // len(TILE)
            add_values(values, here, size, scores, r, dim, o, keys, ahead, turn, turns, width)


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
        simd.one_by_one()
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
def turn_keys(keys, here, size, dim, turned):
    """Write a block of keys to `turned[dim, BLOCK]`, so that a lane is a key."""
    for sub in range(0, size, LANES):
        for d in range(0, dim, LANES):
            square = simd.transposed(simd_memory.load_rows(keys, here, sub, d))
            simd_memory.store(square, turned, d * BLOCK + sub, BLOCK, 1)


@inner
def score_few(keys, here, size, packed, rows, dim, scores, values, ahead):
    """Products of so few queries with the keys that turning these would cost more than sums across
    lanes do; asks for the values ahead."""
    each = (LANES + rows - 1) // rows
    for sub in range(0, size, LANES):
        for r in range(rows):
            line = row_dots(packed, r * dim, keys, here, sub, dim)
            simd_memory.store(line, scores, r * BLOCK + sub, 0, 1)
            for c in range(sub + r * each, sub + min(LANES, (r + 1) * each)):
                for d in range(0, dim, LINE):
                    simd_memory.prefetch(values, ahead[c] + d)


@inner
def score(turned, size, packed, r, dim, scores, values, ahead, turn, turns):
    """Products of a tile of queries with the turned keys. In its turn, a power of two, a tile asks
    for values ahead: the first tile for those of the first key, and so on."""
    for sub in range(0, size, VECTORS * LANES):
        acc = simd.zeros(TILE, VECTORS)
        for d in range(dim):
            if d & (turns - 1) == turn:
                ask(values, ahead[d & (BLOCK - 1)] + d // BLOCK * BLOCK + sub, ACROSS)
            column = simd_memory.load_tile(turned, d * BLOCK + sub, 0, ONE, ACROSS)
            acc = simd.outer_fma(acc, column, packed, r * dim + d, dim)
        simd_memory.store(acc, scores, r * BLOCK + sub, BLOCK, VECTORS)


@inner
def add_values(values, here, size, scores, r, dim, o, keys, ahead, turn, turns, width):
    """A tile of outputs plus the values by their weights; asks for keys ahead as `score` does."""
    for d in range(0, dim, len(width) * LANES):
        acc = simd_memory.load_tile(o, r * dim + d, dim, TILE, width)
        for c in range(size):
            if c & (turns - 1) == turn:
                ask(keys, ahead[c] + d, width)
            value = simd_memory.load_tile(values, here[c] + d, 0, ONE, width)
            acc = simd.outer_fma(acc, value, scores, r * BLOCK + c, BLOCK)
        simd_memory.store(acc, o, r * dim + d, dim, len(width))


@inner
def ask_for_block(keys, values, where, size, dim):
    """Prefetch a first block, which no block before it has asked for."""
    for c in range(size):
        for d in range(0, dim, LINE):
            simd.one_by_one()
            simd_memory.prefetch(keys, where[c] + d)
    for c in range(size):
        for d in range(0, dim, LINE):
            simd.one_by_one()
            simd_memory.prefetch(values, where[c] + d)


@inner
def ask(array, at, width):
    """Prefetch as many cache lines from `at` on as vectors are read there."""
    for i in range(len(width)):
        simd_memory.prefetch(array, at + i * LINE)


@inner
def hide(scores, block, size, read, members, anc, bound, r, shape, softcap):
    """One line of scores: cap them; hide what is no key, keys before the first visible one, and
    staged nodes that are no ancestors."""
    _, heads, kv_heads, nodes, _ = shape
    at = r * BLOCK
    for c in range(at + size, at + BLOCK):
        simd.one_by_one()
        scores[c] = -np.inf
    if softcap > 0:
        for c in range(at, at + size):
            simd.one_by_one()
            scores[c] = softcap * math.tanh(scores[c] / softcap)
    if bound.size:
        first = bound[r // (nodes * (heads // kv_heads)) * nodes + r % nodes]
        for c in range(min(size, max(0, first - block))):
            simd.one_by_one()
            scores[at + c] = -np.inf
    if read[TAIL]:
        words = anc[members[read[FIRST]], r % nodes]
        for c in range(max(0, read[END] - block), size):
            slot = block + c - read[END]
            if not (words[slot >> 6] >> np.uint64(slot & 63)) & np.uint64(1):
                scores[at + c] = -np.inf


@inner
def take_up(scores, rows, dim, o, top, total):
    """Turn lines of scores into weights in place, relative to the new running maxima."""
    for r in range(rows):
        line = simd_memory.load(scores, r * BLOCK, 4)
        if simd.any_above(line, top, r, 4):
            best = max(top[r], simd.max_lanes(line))
            shrink = np.float32(math.exp(top[r] - best))
            sums = simd_memory.load(total, r * LANES, 1)
            sums = simd.multiply(sums, simd.splat(sums, shrink))
            simd_memory.store(sums, total, r * LANES, 0, 1)
            for d in range(r * dim, (r + 1) * dim, LANES):
                part = simd_memory.load(o, d, 1)
                simd_memory.store(simd.multiply(part, simd.splat(part, shrink)), o, d, 0, 1)
            top[r] = best
    for r in range(rows):  # apart from the maxima, so that rows do not wait for each other
        line = simd_memory.load(scores, r * BLOCK, 4)
        minus = np.float32(0) if top[r] == -np.inf else -top[r]
        weights = simd.exp_or_zero(simd.add(line, simd.splat(line, minus)))
        simd_memory.store(weights, scores, r * BLOCK, 0, 4)
        sums = simd.add(simd_memory.load(total, r * LANES, 1), simd.folded(weights))
        simd_memory.store(sums, total, r * LANES, 0, 1)
