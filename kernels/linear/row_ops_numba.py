"""What a decoder layer does between its matrix products: a few thousand numbers, one thread.

These stand apart from the kernels that call them because `parallel` would make a region of every
array expression.
"""

from __future__ import annotations

import math

import numpy as np

from specdec.kernels.cpu import simd, simd_lanes, simd_memory
from specdec.kernels.cpu.jit import inner
from specdec.kernels.cpu.simd_types import LANES
from specdec.kernels.linear.packed_formats import PANEL

SILU, GELU_TANH, GELU = range(3)  # places in `decoder_block.ACTIVATIONS`
STRIP = 4 * LANES  # numbers that a norm takes at once; what is left of a row goes one by one
ONE = (0,)


@inner
def heads_apart(x, n, nodes, heads, dim, norm, eps, cos, sin):
    """`x[B, nodes, heads, dim]` as `[B, heads, nodes, dim]`, with head norm and rotation if any."""
    out = np.empty(x.size, np.float32)
    rotary = cos.size // n
    half = rotary // 2
    for i in range(n):
        for h in range(heads):
            source = (i * heads + h) * dim
            to = ((i // nodes * heads + h) * nodes + i % nodes) * dim
            if norm.size:
                rms_norm(x, source, norm, eps, x, source, dim)
            whole = half // LANES * LANES
            for d in range(0, whole, LANES):
                low, high = (
                    simd_memory.load(x, source + d, 1),
                    simd_memory.load(x, source + half + d, 1),
                )
                at = i * rotary + d
                a, b = simd_memory.load(cos, at, 1), simd_memory.load(sin, at, 1)
                turned = simd.subtract(simd.multiply(low, a), simd.multiply(high, b))
                simd_memory.store(turned, out, to + d, 0, 1)
                a, b = simd_memory.load(cos, at + half, 1), simd_memory.load(sin, at + half, 1)
                turned = simd.fma(high, a, simd.multiply(low, b))
                simd_memory.store(turned, out, to + half + d, 0, 1)
            for d in range(whole, half):
                simd.no_unroll()
                low, high = x[source + d], x[source + half + d]
                at = i * rotary + d
                out[to + d] = low * cos[at] - high * sin[at]
                out[to + half + d] = high * cos[at + half] + low * sin[at + half]
            copied(x, source + rotary, out, to + rotary, dim - rotary)
    return out


@inner
def copied(x, at, out, to, size):
    """`out[to:] = x[at:]` over `size` numbers, in place."""
    whole = size // LANES * LANES
    for d in range(0, whole, LANES):
        simd_memory.store(simd_memory.load(x, at + d, 1), out, to + d, 0, 1)
    for d in range(whole, size):
        simd.no_unroll()
        out[to + d] = x[at + d]


@inner
def zeroed(size):
    """An array of zeros."""
    return np.zeros(size, np.float32)


@inner
def normed(x, n, rows, norm, eps, hidden):
    """`x[n, hidden]` after an RMS norm, with rows of zeros up to `rows`."""
    out = np.zeros(rows * hidden, np.float32)
    for i in range(n):
        rms_norm(x, i * hidden, norm, eps, out, i * hidden, hidden)
    return out


@inner
def in_rows(x, n, rows, size):
    """`x[n, size]` with rows of zeros up to `rows`; itself where there are so many."""
    if n == rows:
        return x
    out = np.zeros(rows * size, np.float32)
    copied(x, 0, out, 0, n * size)
    return out


@inner
def add_bias(y, n, size, bias):
    """Add `bias[size]` or more, or none if it is empty, to the rows of `y[n, size]`, in place."""
    if bias.size == 0:
        return
    for i in range(n):
        whole = size // LANES * LANES
        for d in range(0, whole, LANES):
            total = simd.add(simd_memory.load(y, i * size + d, 1), simd_memory.load(bias, d, 1))
            simd_memory.store(total, y, i * size + d, 0, 1)
        for d in range(whole, size):
            simd.no_unroll()
            y[i * size + d] += bias[d]


@inner
def add_residual(y, x, n, hidden, norm, eps):
    """`y = x + norm(y)` in place; an empty norm is none."""
    for i in range(n):
        at = i * hidden
        if norm.size:
            rms_norm(y, at, norm, eps, y, at, hidden)
        whole = hidden // LANES * LANES
        for d in range(at, at + whole, LANES):
            total = simd.add(simd_memory.load(y, d, 1), simd_memory.load(x, d, 1))
            simd_memory.store(total, y, d, 0, 1)
        for d in range(at + whole, at + hidden):
            simd.no_unroll()
            y[d] += x[d]


@inner
def heads_together(o, n, rows, nodes, heads, dim):
    """`o[B, heads, nodes, dim]` as `[rows, heads, dim]`, with rows of zeros past n = B * nodes."""
    out = np.zeros(rows * heads * dim, np.float32)
    for i in range(n):
        for head in range(heads):
            source = ((i // nodes * heads + head) * nodes + i % nodes) * dim
            to = (i * heads + head) * dim
            copied(o, source, out, to, dim)
    return out


@inner
def rms_norm(x, at, weight, eps, out, to, size):
    """`out[to:] = weight * x[at:] / rms(x[at:])` over `size` numbers, in place."""
    whole = size // STRIP * STRIP
    squares = simd.zeros(ONE, 4)
    for d in range(0, whole, STRIP):
        strip = simd_memory.load(x, at + d, 4)
        squares = simd.fma(strip, strip, squares)
    total = float(simd_lanes.sum_lanes(squares))
    for d in range(whole, size):
        simd.no_unroll()
        total += float(x[at + d]) * float(x[at + d])
    scale = np.float32(1.0 / math.sqrt(total / size + eps))
    for d in range(0, whole, STRIP):
        strip = simd_memory.load(x, at + d, 4)
        strip = simd.multiply(strip, simd.splat(strip, scale))
        simd_memory.store(simd.multiply(simd_memory.load(weight, d, 4), strip), out, to + d, 0, 4)
    for d in range(whole, size):
        simd.no_unroll()
        out[to + d] = weight[d] * (x[at + d] * scale)


@inner
def biased(acc, bias, panel):
    """Accumulators plus one panel of a bias, or as they are where there is none."""
    if bias.size == 0:
        return acc
    ones = simd.splat(acc, np.float32(1))
    return simd.row_fma(acc, ones, simd_memory.load(bias, panel * PANEL, 2))


@inner
def activated(x, kind):
    """The activation of a gated MLP: x times a sigmoid, but for the exact GELU."""
    one = simd.splat(x, np.float32(1))
    if kind == GELU:
        flat = np.empty(len(x) * LANES, np.float32)
        simd_memory.store(x, flat, 0, LANES, 1)
        for i in range(flat.size):
            flat[i] *= np.float32(0.5 * (1.0 + math.erf(flat[i] * 0.7071067811865476)))
        return simd_memory.load_like(x, flat)
    slope = one
    if kind == GELU_TANH:
        cubic = simd.splat(x, np.float32(2 * 0.7978845608028654 * 0.044715))
        linear = simd.splat(x, np.float32(2 * 0.7978845608028654))
        slope = simd.fma(cubic, simd.multiply(x, x), linear)
    minus = simd.multiply(simd.multiply(x, slope), simd.splat(x, np.float32(-1)))
    return simd.divide(x, simd.add(one, simd.exp(minus)))
