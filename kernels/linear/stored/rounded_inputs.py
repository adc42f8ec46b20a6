"""Activations rounded to 8 bits by blocks, in tiles, from Numba code: see `Rounding`."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from specdec.kernels.cpu import simd, simd_lanes, simd_memory
from specdec.kernels.cpu.jit import inner
from specdec.kernels.cpu.simd_types import (
    FLOATS,
    I8,
    I32,
    I64,
    INTS,
    LANES,
    address,
    call,
    constant,
    every_lane,
    types,
)
from specdec.kernels.linear.stored.formats import BYTES
from specdec.kernels.linear.stored.rounding import MAX_CODE, SMALLEST


@inner
def rounded(x, rows, inputs, block, group, zero, tile):
    """`x[rows, inputs]` as `int32[rows / height, inputs / block, words, height]`, flat."""
    height = len(tile)
    blocks, groups, codes = inputs // block, block // group, block // BYTES
    size = codes + groups + 1
    out = np.empty(rows * blocks * size, np.int32)
    floats = out.view(np.float32)
    for row in range(rows):
        for i in range(blocks):
            at = row * inputs + i * block
            to = (row // height * blocks + i) * size * height + row % height
            top = largest(x, at, block)
            scale, inverse = top * np.float32(1 / MAX_CODE), np.float32(0)
            if top >= SMALLEST and top < np.inf:
                inverse = np.float32(MAX_CODE) / top
            elif top < SMALLEST:
                scale = np.float32(0)
            else:
                scale = np.float32(np.nan)
            for g in range(groups):
                total = 0
                for j in range(g * group, (g + 1) * group, LANES):
                    place = to + j // BYTES * height
                    total += store_codes(x, at + j, inverse, out, place, height)
                place = to + (codes + g) * height
                if zero:
                    out[place] = -zero * total
                else:
                    floats[place] = total
            floats[to + (codes + groups) * height] = scale
    return out


@inner
def largest(x, at, size):
    """The largest magnitude of `x[at:]` over `size` numbers, NaN where one of them is."""
    top = absolute(simd_memory.load(x, at, 1))
    for j in range(LANES, size, LANES):
        top = simd.maximum(top, absolute(simd_memory.load(x, at + j, 1)))
    odd = simd_memory.load(x, at, 1)
    odd = simd.subtract(odd, odd)
    for j in range(LANES, size, LANES):
        more = simd_memory.load(x, at + j, 1)
        odd = simd.add(odd, simd.subtract(more, more))
    return simd_lanes.max_lanes(top) + simd_lanes.sum_lanes(odd)


@intrinsic
def absolute(typing: Any, x: Any) -> Any:
    """Magnitudes."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        parts = cgutils.unpack_tuple(b, args[0])
        return context.make_tuple(b, x, [call(b, "fabs", part) for part in parts])

    return x(x), emit


@intrinsic
def store_codes(typing: Any, x: Any, at: Any, inverse: Any, out: Any, to: Any, stride: Any) -> Any:
    """Round LANES numbers times `inverse` to whole ones, write them as words of four bytes to
    `out[to]`, `out[to + stride]` ..., and return their sum. What is no number counts as 0."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        place = address(context, b, x, args[0], args[1])
        value = b.load(b.bitcast(place, FLOATS.as_pointer()), align=4)
        value = b.fmul(value, every_lane(b, args[2]))
        value = b.select(b.fcmp_ordered("ord", value, value), value, constant(0.0))
        whole = b.fptosi(call(b, "rint", value), INTS)
        count = LANES // BYTES
        words = b.bitcast(b.trunc(whole, ir.VectorType(I8, LANES)), ir.VectorType(I32, count))
        for i in range(count):
            where = b.add(args[4], b.mul(args[5], I64(i)))
            b.store(b.extract_element(words, I32(i)), address(context, b, out, args[3], where))
        name = f"llvm.vector.reduce.add.v{LANES}i32"
        known = b.module.globals.get(name)
        if known is None:
            known = ir.Function(b.module, ir.FunctionType(I32, [INTS]), name)
        return b.sext(b.call(known, [whole]), I64(0).type)

    given = x, types.int64, types.float32, out, types.int64, types.int64
    return types.int64(*given), emit
