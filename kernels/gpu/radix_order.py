"""Device functions that find the greatest of many floats by the bits of integers of their order."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

LEAST = tl.constexpr(0)


@triton.jit
def order(x):
    """Integers in [0, 2^32), int64, of the order of the float32 `x`."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) + 0x80000000


@triton.jit
def narrow(lowest, wanted, counts):
    """One more byte of the lowest chosen order: it, and how many of those with it are wanted.

    counts: `int32[256]`, how many of those that begin with `lowest` go on with each byte.
    """
    byte = tl.arange(0, 256)
    at_least = tl.cumsum(counts, 0, reverse=True)
    found = tl.maximum(tl.sum((at_least >= wanted).to(tl.int32), 0) - 1, 0)
    wanted -= tl.sum(tl.where(byte > found, counts, 0), 0)
    return lowest * 256 + found, wanted


@triton.jit
def select(scores, count, wanted, BLOCK: tl.constexpr):
    """The order of the `wanted`-th greatest of `scores[count]`, and how many equals are wanted."""
    lowest = tl.zeros([], tl.int64)
    for place in tl.static_range(4):
        shift = 24 - 8 * place
        counts = tl.zeros([256], tl.int32)
        for start in range(0, count, BLOCK):
            i = start + tl.arange(0, BLOCK)
            key = order(tl.load(scores + i, mask=i < count, other=0.0))
            among = (i < count) & ((key >> (shift + 8)) == lowest)
            counts += tl.histogram(((key >> shift) & 255).to(tl.int32), 256, mask=among)
        lowest, wanted = narrow(lowest, wanted, counts)
    return lowest, wanted
