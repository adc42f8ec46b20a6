"""Device functions for codes of 8, 4 or 2 bits: see `specdec.kernels.cache.codes`."""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def span(x, y, held, bits: tl.constexpr, dim: tl.constexpr):
    """Step and lowest value, in the type of x, of each group of `x` and `y` along `dim`."""
    x_wide, y_wide = x.to(tl.float32), y.to(tl.float32)
    low = tl.where(held, tl.minimum(x_wide, y_wide), float("inf"))
    high = tl.where(held, tl.maximum(x_wide, y_wide), float("-inf"))
    low, high = tl.min(low, dim, keep_dims=True), tl.max(high, dim, keep_dims=True)
    step = tl.div_rn(high - low, tl.full(low.shape, 2**bits - 1, tl.float32))
    some = high >= low
    return tl.where(some, step, 0.0).to(x.dtype), tl.where(some, low, 0.0).to(x.dtype)


@triton.jit
def codes_of(x, step, low, bits: tl.constexpr):
    """Codes (int32) of `x` in groups of this step and lowest value."""
    unit = tl.where(step.to(tl.float32) > 0, step.to(tl.float32), 1.0)
    place = tl.div_rn(x.to(tl.float32) - low.to(tl.float32), tl.broadcast_to(unit, x.shape)) + 0.5
    return tl.minimum(tl.maximum(place, 0.0), (2**bits - 1) * 1.0).to(tl.int32)


@triton.jit
def encode(x, held, bits: tl.constexpr, dim: tl.constexpr):
    """Codes of `x`, and step and lowest value of each group along `dim`, of what is held."""
    step, low = span(x, x, held, bits, dim)
    return codes_of(x, step, low, bits), step, low


@triton.jit
def halves(at, d, packed, held, HALF: tl.constexpr, BITS: tl.constexpr):
    """The codes d and d + HALF of the vectors whose bytes begin at `at`, as float32."""
    if BITS == 2:
        bits = tl.load(packed + at + d % (HALF // 2), mask=held, other=0).to(tl.int32)
        bits = bits >> d // (HALF // 2) * 2
        return (bits & 3).to(tl.float32), (bits >> 4 & 3).to(tl.float32)
    at += d
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
