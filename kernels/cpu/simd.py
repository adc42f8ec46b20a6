"""Arithmetic on vectors of sixteen float32 lanes in Numba code: vectors by construction.

LLVM vectorises a plain loop when it sees fit; these intrinsics emit vector instructions. They take
and return tuples of vectors; a tuple of accumulators holds `rows x vectors`, row by row.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from specdec.kernels.cpu.simd_types import (
    FLOATS,
    I32,
    I64,
    INTS,
    LANES,
    address,
    call,
    constant,
    every_lane,
    floats,
    types,
)


@intrinsic
def no_unroll(typing: Any) -> Any:
    """Say in a loop over leftovers that LLVM is not to unroll it or make vectors of it, which would
    take longer to compile than all that the loop ever does."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        b.asm(ir.FunctionType(ir.VoidType(), []), "", "", [], side_effect=True)
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def noinline(typing: Any) -> Any:
    """Keeps LLVM from inlining the function that says this, so that it has all registers."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        b.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic(prefer_literal=True)
def zeros(typing: Any, rows: Any, vectors: Any) -> Any:
    """`len(rows) * vectors` accumulators of zero; `rows` is any tuple, `vectors` a literal."""
    kind = types.UniTuple(floats, len(rows) * vectors.literal_value)

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return context.make_tuple(b, kind, [constant(0.0)] * len(kind))

    return kind(rows, vectors), emit


@intrinsic
def outer_fma(typing: Any, acc: Any, w: Any, x: Any, at: Any, stride: Any) -> Any:
    """`acc[r, v] + x[at + r * stride] * w[v]`: one column of a matrix product, for all rows."""
    width = len(w)

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        accs, ws = cgutils.unpack_tuple(b, args[0]), cgutils.unpack_tuple(b, args[1])
        out = []
        for row in range(len(acc) // width):
            at = b.add(args[3], b.mul(args[4], I64(row)))
            value = every_lane(b, b.load(address(context, b, x, args[2], at)))
            out += [call(b, "fma", ws[v], value, accs[row * width + v]) for v in range(width)]
        return context.make_tuple(b, acc, out)

    return acc(acc, w, x, types.int64, types.int64), emit


@intrinsic
def columns_fma(typing: Any, acc: Any, w: Any, rows: Any, x: Any, at: Any, stride: Any) -> Any:
    """`acc[r, v]` plus the sum over c of `x[at + r * stride + c] * w[c, v]`: some columns of a
    matrix product, for `len(rows)` rows."""
    height, width = len(rows), len(acc) // len(rows)

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        accs, ws = cgutils.unpack_tuple(b, args[0]), cgutils.unpack_tuple(b, args[1])
        starts = [
            address(context, b, x, args[3], b.add(args[4], b.mul(args[5], I64(row))))
            for row in range(height)
        ]  # from which a column is a constant away, so that its address costs no instruction
        for c in range(len(ws) // width):
            for row, start in enumerate(starts):
                value = every_lane(b, b.load(b.gep(start, [I64(c)])))
                for v in range(width):
                    i = row * width + v
                    accs[i] = call(b, "fma", ws[c * width + v], value, accs[i])
        return context.make_tuple(b, acc, accs)

    return acc(acc, w, rows, x, types.int64, types.int64), emit


@intrinsic
def hstack(typing: Any, left: Any, right: Any, rows: Any) -> Any:
    """The accumulators of two neighbouring parts of `len(rows)` rows, as those of whole rows."""
    kind = types.UniTuple(floats, len(left) + len(right))
    height = len(rows)

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        lefts, rights = (cgutils.unpack_tuple(b, x) for x in args[:2])
        out = []
        for row in range(height):
            for part in lefts, rights:
                width = len(part) // height
                out += part[row * width : (row + 1) * width]
        return context.make_tuple(b, kind, out)

    return kind(left, right, rows), emit


@intrinsic
def row_fma(typing: Any, acc: Any, w: Any, scale: Any) -> Any:
    """`acc[r, v] + w[r, v] * scale[v]`."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        accs, ws, scales = (cgutils.unpack_tuple(b, x) for x in args)
        out = [call(b, "fma", w, scales[i % len(scales)], accs[i]) for i, w in enumerate(ws)]
        return context.make_tuple(b, acc, out)

    return acc(acc, w, scale), emit


def larger(b: Any, x: Any, y: Any) -> Any:
    """The larger of two numbers, lane by lane; y where one is NaN. One instruction on x86."""
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def _elementwise(arity: int, rule: Any) -> Any:
    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        columns = zip(*(cgutils.unpack_tuple(b, x) for x in args), strict=True)
        return context.make_tuple(b, signature.return_type, [rule(b, *xs) for xs in columns])

    if arity == 1:
        return intrinsic(lambda typing, x: (x(x), emit))
    if arity == 2:
        return intrinsic(lambda typing, x, y: (x(x, y), emit))
    return intrinsic(lambda typing, x, y, z: (x(x, y, z), emit))


add = _elementwise(2, lambda b, x, y: b.fadd(x, y))
subtract = _elementwise(2, lambda b, x, y: b.fsub(x, y))
multiply = _elementwise(2, lambda b, x, y: b.fmul(x, y))
divide = _elementwise(2, lambda b, x, y: b.fdiv(x, y))
maximum = _elementwise(2, larger)
fma = _elementwise(3, lambda b, x, y, z: call(b, "fma", x, y, z))


@intrinsic
def splat(typing: Any, like: Any, x: Any) -> Any:
    """A tuple shaped as `like` with `x` in every lane."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return context.make_tuple(b, like, [every_lane(b, args[1])] * len(like))

    return like(like, types.float32), emit


@intrinsic
def power_of_two(typing: Any, x: Any) -> Any:
    """2^x for whole numbers, 0 below -126; x is at most 127."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        least = ir.Constant(x_kind, -126.0)
        is_seen = b.fcmp_ordered(">=", args[0], least)
        whole = b.fptosi(b.select(is_seen, args[0], least), I32)
        bits = b.shl(b.add(whole, I32(127)), I32(23))
        return b.select(is_seen, b.bitcast(bits, x_kind), ir.Constant(x_kind, 0.0))

    x_kind = ir.FloatType()
    return types.float32(types.float32), emit


def _exp(b: Any, x: Any) -> Any:
    """e^x for x up to 88.3, to 2 units in the last place; 1e-38 for whatever is below -87.3.

    2^n by the exponent bits, the rest by a polynomial. Added to 1.5 * 2^23, a number is rounded to
    a whole one, which then stands in the lowest bits.
    """
    _, shifted, y = _exp_parts(b, larger(b, x, constant(-87.3)))
    exponent = b.shl(b.bitcast(shifted, INTS), ir.Constant(INTS, [23] * LANES))
    return b.bitcast(b.add(b.bitcast(y, INTS), exponent), FLOATS)


def _exp_parts(b: Any, x: Any) -> tuple[Any, Any, Any]:
    """Whole n, the same in the lowest bits of a number, and y in 0.7 to 1.42: e^x = 2^n y."""
    shifted = call(b, "fma", x, constant(1.4426950408889634), constant(12582912.0))
    n = b.fsub(shifted, constant(12582912.0))
    r = call(b, "fma", n, constant(-0.693359375), x)
    r = call(b, "fma", n, constant(2.12194440e-4), r)
    y = constant(1.9875691500e-4)  # Cephes' expf
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        y = call(b, "fma", y, r, constant(c))
    for _ in range(2):
        y = call(b, "fma", y, r, constant(1.0))
    return n, shifted, y


def _exp_up_to_88(b: Any, x: Any) -> Any:
    """e^x, or e^88.3 for what is above."""
    over = b.fcmp_ordered(">", x, constant(88.3))
    return _exp(b, b.select(over, constant(88.3), x))


def _exp_or_zero(b: Any, x: Any) -> Any:
    """e^x of x up to 88, and exactly 0 for what a float32 softmax cannot see, -inf included."""
    tiny = b.fcmp_ordered("<", x, constant(-87.0))
    return b.select(tiny, constant(0.0), _exp(b, x))


def _exp_over_power(b: Any, x: Any, power: Any) -> Any:
    """e^x / 2^power for a whole power, and 0 below 2^-125 or where one is -inf. Its significand
    depends on x alone."""
    n, _, y = _exp_parts(b, x)
    exponent = b.fsub(n, power)
    shifted = b.bitcast(b.fadd(exponent, constant(12582912.0)), INTS)
    scaled = b.add(b.bitcast(y, INTS), b.shl(shifted, ir.Constant(INTS, [23] * LANES)))
    seen = b.fcmp_ordered(">", exponent, constant(-125.5))
    return b.select(seen, b.bitcast(scaled, FLOATS), constant(0.0))


exp = _elementwise(1, _exp_up_to_88)
exp_or_zero = _elementwise(1, _exp_or_zero)
exp_over_power = _elementwise(2, _exp_over_power)
