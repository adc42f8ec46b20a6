"""Reading and writing vectors of sixteen float32 lanes from Numba code.

Arrays are addressed by flat element index, without bounds checks. A tuple of accumulators holds
`rows x vectors`, row by row; how many is said by the length of a tuple or by a literal.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from specdec.kernels.cpu.simd_types import (
    FLOATS,
    I8,
    I32,
    I64,
    INTS,
    LANES,
    address,
    every_lane,
    floats,
    types,
)

_BYTES, _SHORTS = ir.VectorType(I8, LANES), ir.VectorType(ir.IntType(16), LANES)
_HALVES = ir.VectorType(ir.HalfType(), LANES)


def load_vector(context: Any, b: Any, kind: Any, array: Any, at: Any, vector: Any) -> Any:
    pointer = b.bitcast(address(context, b, kind, array, at), vector.as_pointer())
    return b.load(pointer, align=kind.dtype.bitwidth // 8)


def _count(vectors: Any) -> int:
    """How many vectors a literal or the length of a tuple says."""
    return len(vectors) if isinstance(vectors, types.BaseTuple) else vectors.literal_value


def _bfloat16(b: Any, shorts: Any) -> Any:
    return b.bitcast(b.shl(b.zext(shorts, INTS), ir.Constant(INTS, [16] * LANES)), FLOATS)


@intrinsic(prefer_literal=True)
def load(typing: Any, array: Any, at: Any, vectors: Any) -> Any:
    """Vectors (a literal, or a tuple's length) from `array[at]` on: float32, or bytes converted."""
    count = _count(vectors)
    kind = types.UniTuple(floats, count)

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        out = []
        for i in range(count):
            at = b.add(args[1], I64(i * LANES))
            if array.dtype == types.float32:
                out.append(load_vector(context, b, array, args[0], at, FLOATS))
            else:
                codes = load_vector(context, b, array, args[0], at, _BYTES)
                wide = b.sext(codes, INTS) if array.dtype.signed else b.zext(codes, INTS)
                out.append(b.sitofp(wide, FLOATS))
        return context.make_tuple(b, kind, out)

    if array.dtype in (types.float32, types.int8, types.uint8):
        return kind(array, types.int64, vectors), emit
    return None


def _load_16_bit(convert: Any) -> Any:
    def typed(typing: Any, array: Any, at: Any, vectors: Any) -> Any:
        count = _count(vectors)
        kind = types.UniTuple(floats, count)

        def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
            out = []
            for i in range(count):
                at = b.add(args[1], I64(i * LANES))
                out.append(convert(b, load_vector(context, b, array, args[0], at, _SHORTS)))
            return context.make_tuple(b, kind, out)

        return kind(array, types.int64, vectors), emit

    return typed


load_bfloat16 = intrinsic(prefer_literal=True)(_load_16_bit(_bfloat16))
load_float16 = intrinsic(prefer_literal=True)(
    _load_16_bit(lambda b, shorts: b.fpext(b.bitcast(shorts, _HALVES), FLOATS))
)


def _load_packed(bits: int) -> Any:
    """Two vectors out of the LANES bytes from `array[at]` on: the bits from `shift` on, and those
    above them."""

    def typed(typing: Any, array: Any, at: Any, shift: Any) -> Any:
        kind = types.UniTuple(floats, 2)

        def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
            codes = b.zext(load_vector(context, b, array, args[0], args[1], _BYTES), INTS)
            bare = every_lane(b, b.bitcast(b.trunc(args[2], I32), FLOATS.element))
            codes = b.lshr(codes, b.bitcast(bare, INTS))
            above = b.lshr(codes, ir.Constant(INTS, [bits] * LANES))
            mask = ir.Constant(INTS, [2**bits - 1] * LANES)
            return context.make_tuple(
                b, kind, [b.uitofp(b.and_(x, mask), FLOATS) for x in (codes, above)]
            )

        return kind(array, types.int64, types.int64), emit

    return typed


load_nibbles = intrinsic(_load_packed(4))
load_crumbs = intrinsic(_load_packed(2))


@intrinsic(prefer_literal=True)
def store(typing: Any, values: Any, array: Any, at: Any, stride: Any, vectors: Any) -> Any:
    """Write a tuple of `rows x vectors`: row r to `array[at + r * stride]` on."""
    count, width = len(values), vectors.literal_value

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        parts = cgutils.unpack_tuple(b, args[0], count)
        for i, part in enumerate(parts):
            at = b.add(b.add(args[2], b.mul(args[3], I64(i // width))), I64(i % width * LANES))
            pointer = b.bitcast(address(context, b, array, args[1], at), FLOATS.as_pointer())
            b.store(part, pointer, align=4)
        return context.get_dummy_value()

    return types.void(values, array, types.int64, types.int64, vectors), emit


@intrinsic
def store_parts(typing: Any, columns: Any, array: Any, at: Any, rows: Any) -> Any:
    """Write LANES vectors in parts of `len(rows)` lanes: part p of each behind part p - 1 of all.
    A single row is written in whole vectors."""
    height = len(rows) if len(rows) > 1 else LANES

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        part = ir.VectorType(ir.FloatType(), height).as_pointer()
        for c, column in enumerate(cgutils.unpack_tuple(b, args[0])):
            for p in range(LANES // height):
                lanes = ir.Constant(
                    ir.VectorType(I32, height), list(range(p * height, p * height + height))
                )
                value = b.shuffle_vector(column, column, lanes)
                place = b.add(args[2], I64((p * LANES + c) * height))
                b.store(value, b.bitcast(address(context, b, array, args[1], place), part), align=4)
        return context.get_dummy_value()

    return types.void(columns, array, types.int64, rows), emit


@intrinsic
def load_like(typing: Any, like: Any, array: Any) -> Any:
    """A tuple shaped as `like`, read from the start of a float32 array."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        out = [
            load_vector(context, b, array, args[1], I64(i * LANES), FLOATS)
            for i in range(len(like))
        ]
        return context.make_tuple(b, like, out)

    return like(like, array), emit


@intrinsic(prefer_literal=True)
def load_tile(typing: Any, array: Any, at: Any, stride: Any, rows: Any, width: Any) -> Any:
    """`len(rows) x len(width)` vectors of float32: row r from `array[at + r * stride]` on."""
    kind = types.UniTuple(floats, len(rows) * len(width))

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        out = []
        for i in range(len(kind)):
            row = b.mul(args[2], I64(i // len(width)))
            at = b.add(b.add(args[1], row), I64(i % len(width) * LANES))
            out.append(load_vector(context, b, array, args[0], at, FLOATS))
        return context.make_tuple(b, kind, out)

    return kind(array, types.int64, types.int64, rows, width), emit


@intrinsic
def load_splats(typing: Any, array: Any, at: Any, stride: Any) -> Any:
    """Two vectors: `array[at]` in every lane of one, `array[at + stride]` of the other."""
    kind = types.UniTuple(floats, 2)

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        places = args[1], b.add(args[1], args[2])
        values = [b.load(address(context, b, array, args[0], place)) for place in places]
        return context.make_tuple(b, kind, [every_lane(b, value) for value in values])

    return kind(array, types.int64, types.int64), emit


@intrinsic
def prefetch(typing: Any, array: Any, at: Any) -> Any:
    """Ask for the cache line that holds `array[at]`, which may lie behind the end."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        pointer = b.bitcast(address(context, b, array, args[0], args[1]), I8.as_pointer())
        name, kind = (
            "llvm.prefetch.p0",
            ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32]),
        )
        known = b.module.globals.get(name) or ir.Function(b.module, kind, name)
        b.call(known, [pointer, I32(0), I32(2), I32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), emit
