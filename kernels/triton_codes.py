"""Device functions for codes of 8 or 4 bits: see `specdec.kernels.codes`."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def encode(x, held, bits: tl.constexpr, dim: tl.constexpr):
    """Codes (int32) of `x` where `held`, and step and lowest value of each group along `dim`."""
    wide = x.to(tl.float32)
    low = tl.min(tl.where(held, wide, float("inf")), dim, keep_dims=True)
    high = tl.max(tl.where(held, wide, float("-inf")), dim, keep_dims=True)
    top: tl.constexpr = 2**bits - 1
    some = high >= low
    step = tl.where(some, tl.div_rn(high - low, tl.full(low.shape, top, tl.float32)), 0.0)
    step = step.to(x.dtype)
    low = tl.where(some, low, 0.0).to(x.dtype)
    unit = tl.where(step.to(tl.float32) > 0, step.to(tl.float32), 1.0)
    place = tl.div_rn(wide - low.to(tl.float32), tl.broadcast_to(unit, x.shape)) + 0.5
    place = tl.minimum(tl.maximum(place, 0.0), top * 1.0)
    return tl.where(held, place, 0.0).to(tl.int32), step, low


@triton.jit
def halves(at, packed, held, HALF: tl.constexpr, BITS: tl.constexpr):
    """The codes j and j + HALF of the bytes at `at`, as float32."""
    byte = tl.load(packed + at, mask=held, other=0).to(tl.int32)
    if BITS == 4:
        return (byte & 15).to(tl.float32), (byte >> 4).to(tl.float32)
    other = tl.load(packed + at + HALF, mask=held, other=0)
    return byte.to(tl.float32), other.to(tl.float32)


@triton.jit
def store_halves(packed, at, low, high, held, HALF: tl.constexpr, BITS: tl.constexpr):
    """Codes j and j + HALF as bytes, to where `halves` reads them."""
    if BITS == 4:
        tl.store(packed + at, (low | (high << 4)).to(tl.uint8), mask=held)
    else:
        tl.store(packed + at, low.to(tl.uint8), mask=held)
        tl.store(packed + at + HALF, high.to(tl.uint8), mask=held)
