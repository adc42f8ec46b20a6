"""Queries against an index of pages on a CPU: products with one short vector for each page.

Bounds are such an index, too: sum_d max(q_d low_d, q_d high_d) is the product of (min(q, 0),
max(q, 0)) with (low, high).
"""

from __future__ import annotations

import numpy as np
from numba import prange
from numpy.typing import NDArray
from torch import Tensor

from specdec.kernels.cpu import simd, simd_memory
from specdec.kernels.cpu.jit import OPTIONS, inner, njit, num_threads
from specdec.kernels.cpu.row_dots import row_dots
from specdec.kernels.cpu.simd_types import LANES

CHUNK = 256  # units that a thread takes at once


def best_dots(queries: Tensor, index: Tensor, length: Tensor, row_map: Tensor, unit: int) -> Tensor:
    """Products of `queries[B, Hkv, M, W]` with `index[R, Hkv, U, W]`, max over M: `[B, Hkv, U]`.

    Sequence b reads row `row_map[b]`; -inf for units of `unit` keys that are not full.
    """
    num_threads()
    out = queries.new_empty(*queries.shape[:2], index.shape[2])
    full = (length // unit).numpy()
    _best(
        queries.contiguous().numpy(), index.float().contiguous().numpy(), full, row_map.numpy(),
        out.numpy(),
    )  # fmt: skip
    return out


@njit(**OPTIONS)
def _best(queries, index, full, row_map, out):
    batch, heads, units = out.shape
    count, width = queries.shape[2:]
    chunks = (units + CHUNK - 1) // CHUNK
    for t in prange(batch * heads * chunks):
        b, head, first = t // (heads * chunks), t // chunks % heads, t % chunks * CHUNK
        row = row_map[b]
        last = min(units, first + CHUNK)
        there = max(first, min(last, full[row]))
        part = np.empty(count * CHUNK, np.float32)
        at = (row * heads + head) * units * width
        dots(queries.reshape(-1), (b * heads + head) * count * width, count, width,
             index.reshape(-1), at, first, there, part, CHUNK)  # fmt: skip
        for unit in range(first, last):
            best = np.float32(-np.inf)
            if unit < there:
                for m in range(count):
                    best = max(best, part[m * CHUNK + unit - first])
            out[b, head, unit] = best


@njit(**OPTIONS)
def all_dots(queries, signed, index, stride, scale, out):
    """`out[H, M, U]`, in place: scale * queries[H, M, W] index[H, U, W]'.

    signed: the queries have half that width, and their signed parts are asked. index: flat, with
    `stride` numbers from head to head.
    """
    heads, count, units = out.shape
    asked = query_rows(queries, signed, scale)
    width = asked.size // (heads * count)
    chunks = (units + CHUNK - 1) // CHUNK
    for t in prange(heads * chunks):
        head, first = t // chunks, t % chunks * CHUNK
        last = min(units, first + CHUNK)
        to = head * count * units + first
        dots(asked, head * count * width, count, width, index, head * stride, first, last,
             out.reshape(-1)[to:], units)  # fmt: skip


@inner
def query_rows(queries, signed, scale):
    """Scaled queries, flat; as bounds are asked, if signed: negative parts, then positive ones."""
    heads, count, width = queries.shape
    out = np.empty(queries.size * (2 if signed else 1), np.float32)
    at = 0
    for head in range(heads):
        for m in range(count):
            for sign in range(2 if signed else 1):
                for d in range(width):
                    x = queries[head, m, d] * scale
                    if signed:
                        x = max(x, np.float32(0)) if sign else min(x, np.float32(0))
                    out[at] = x
                    at += 1
    return out


@inner
def dots(x, at, count, width, index, base, first, last, out, stride):
    """Products of `x[at:]`, `count` queries, with units `first .. last` of an index at `base`.

    Written to `out[m * stride + unit - first]`. Sixteen units go together; the sixteen after them
    are asked for meanwhile.
    """
    whole = width // LANES * LANES
    lines = (LANES + count - 1) // count  # that each query asks for, of every sixteen
    where, line = np.empty(LANES, np.int64), np.empty(LANES, np.float32)
    for group in range(first, last, LANES):
        size = min(LANES, last - group)
        for i in range(LANES):
            where[i] = base + (group + min(i, size - 1)) * width
        for m in range(count):
            for i in range(m * lines, min(LANES, (m + 1) * lines)):
                for d in range(where[i] + LANES * width, where[i] + LANES * width + whole, LANES):
                    simd.no_unroll()
                    simd_memory.prefetch(index, d)
            start = at + m * width
            simd_memory.store(row_dots(x, start, index, where, 0, whole), line, 0, 0, 1)
            for unit in range(size):
                total = line[unit]
                for d in range(whole, width):
                    simd.no_unroll()
                    total += x[start + d] * index[where[unit] + d]
                out[m * stride + group - first + unit] = total


def new_units(since: Tensor, length: Tensor, unit: int, most: int) -> NDArray[np.int64]:
    """`int64[R, 2]`: the units that became full between two lengths, at most `most` of a row."""
    first, last = (since // unit).numpy(), (length // unit).numpy()
    last = np.clip(last, first, first + most)
    return np.stack([first, last], axis=1).astype(np.int64)
