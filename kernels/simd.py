"""Sixteen float32 lanes as one value in Numba code, so that kernels are vectors by construction.

LLVM vectorises a plain loop when it sees fit; these intrinsics emit vector instructions, and keep
accumulators in registers as tuples of vectors. One vector is a zmm register with AVX-512, two ymm
with AVX2, four on NEON: LLVM splits it. Arrays are read and written by flat element index, without
bounds checks. A tuple of accumulators holds `rows x vectors`, row by row.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.core import types as numba_types
from numba.extending import intrinsic, models, register_model

LANES = 16
types: Any = numba_types

_F32, _I8, _I32, _I64 = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)
_BYTES, _SHORTS = ir.VectorType(_I8, LANES), ir.VectorType(ir.IntType(16), LANES)
_HALVES = ir.VectorType(ir.HalfType(), LANES)


class Floats(types.Type):
    """The Numba type of a vector of LANES float32."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


floats = Floats()


@register_model(Floats)
class _FloatsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


def _address(context: Any, b: Any, kind: Any, array: Any, at: Any) -> Any:
    data = context.make_array(kind)(context, b, array).data
    return b.gep(data, [at])


def _load(context: Any, b: Any, kind: Any, array: Any, at: Any, vector: Any) -> Any:
    pointer = b.bitcast(_address(context, b, kind, array, at), vector.as_pointer())
    return b.load(pointer, align=kind.dtype.bitwidth // 8)


def _splat(b: Any, x: Any) -> Any:
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    one = b.insert_element(undefined, x, _I32(0))
    return b.shuffle_vector(one, undefined, ir.Constant(_INTS, [0] * LANES))


def _constant(x: float) -> Any:
    return ir.Constant(_FLOATS, [x] * LANES)


def _call(b: Any, name: str, *args: Any) -> Any:
    """An LLVM intrinsic on whole vectors, such as llvm.fma."""
    name = f"llvm.{name}.v{LANES}f32"
    known = b.module.globals.get(name)
    if known is None:
        known = ir.Function(b.module, ir.FunctionType(_FLOATS, [_FLOATS] * len(args)), name)
    return b.call(known, list(args))


def _bfloat16(b: Any, shorts: Any) -> Any:
    return b.bitcast(b.shl(b.zext(shorts, _INTS), ir.Constant(_INTS, [16] * LANES)), _FLOATS)


# -- loads and stores ------------------------------------------------------------------------------


@intrinsic(prefer_literal=True)
def zeros(typing: Any, rows: Any, vectors: Any) -> Any:
    """`len(rows) * vectors` accumulators of zero; `rows` is any tuple, `vectors` a literal."""
    kind = types.UniTuple(floats, len(rows) * vectors.literal_value)

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return context.make_tuple(b, kind, [_constant(0.0)] * len(kind))

    return kind(rows, vectors), emit


@intrinsic(prefer_literal=True)
def load(typing: Any, array: Any, at: Any, vectors: Any) -> Any:
    """`vectors` (a literal) vectors from `array[at]` on: float32, or int8 converted."""
    count = vectors.literal_value
    kind = types.UniTuple(floats, count)

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        out = []
        for i in range(count):
            at = b.add(args[1], _I64(i * LANES))
            if array.dtype == types.float32:
                out.append(_load(context, b, array, args[0], at, _FLOATS))
            else:
                codes = _load(context, b, array, args[0], at, _BYTES)
                out.append(b.sitofp(b.sext(codes, _INTS), _FLOATS))
        return context.make_tuple(b, kind, out)

    if array.dtype in (types.float32, types.int8):
        return kind(array, types.int64, vectors), emit
    return None


def _load_16_bit(convert: Any) -> Any:
    def typed(typing: Any, array: Any, at: Any, vectors: Any) -> Any:
        count = vectors.literal_value
        kind = types.UniTuple(floats, count)

        def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
            out = []
            for i in range(count):
                at = b.add(args[1], _I64(i * LANES))
                out.append(convert(b, _load(context, b, array, args[0], at, _SHORTS)))
            return context.make_tuple(b, kind, out)

        return kind(array, types.int64, vectors), emit

    return typed


load_bfloat16 = intrinsic(prefer_literal=True)(_load_16_bit(_bfloat16))
load_float16 = intrinsic(prefer_literal=True)(
    _load_16_bit(lambda b, shorts: b.fpext(b.bitcast(shorts, _HALVES), _FLOATS))
)


@intrinsic
def load_nibbles(typing: Any, array: Any, at: Any) -> Any:
    """Two vectors out of the LANES bytes from `array[at]` on: low halves, then high halves."""
    kind = types.UniTuple(floats, 2)

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        codes = b.zext(_load(context, b, array, args[0], args[1], _BYTES), _INTS)
        low = b.and_(codes, ir.Constant(_INTS, [15] * LANES))
        high = b.lshr(codes, ir.Constant(_INTS, [4] * LANES))
        return context.make_tuple(b, kind, [b.uitofp(x, _FLOATS) for x in (low, high)])

    return kind(array, types.int64), emit


@intrinsic(prefer_literal=True)
def store(typing: Any, values: Any, array: Any, at: Any, stride: Any, vectors: Any) -> Any:
    """Write a tuple of `rows x vectors`: row r to `array[at + r * stride]` on."""
    count, width = len(values), vectors.literal_value

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        parts = cgutils.unpack_tuple(b, args[0], count)
        for i, part in enumerate(parts):
            at = b.add(b.add(args[2], b.mul(args[3], _I64(i // width))), _I64(i % width * LANES))
            pointer = b.bitcast(_address(context, b, array, args[1], at), _FLOATS.as_pointer())
            b.store(part, pointer, align=4)
        return context.get_dummy_value()

    return types.void(values, array, types.int64, types.int64, vectors), emit


@intrinsic
def load_like(typing: Any, like: Any, array: Any) -> Any:
    """A tuple shaped as `like`, read from the start of a float32 array."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        out = [
            _load(context, b, array, args[1], _I64(i * LANES), _FLOATS) for i in range(len(like))
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
            row = b.mul(args[2], _I64(i // len(width)))
            at = b.add(b.add(args[1], row), _I64(i % len(width) * LANES))
            out.append(_load(context, b, array, args[0], at, _FLOATS))
        return context.make_tuple(b, kind, out)

    return kind(array, types.int64, types.int64, rows, width), emit


@intrinsic
def load_square(typing: Any, array: Any, at: Any, stride: Any, last: Any) -> Any:
    """LANES vectors: the i-th from `array[at + min(i, last) * stride]` on."""
    kind = types.UniTuple(floats, LANES)

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        out = []
        for i in range(LANES):
            row = b.select(b.icmp_signed("<", _I64(i), args[3]), _I64(i), args[3])
            at = b.add(args[1], b.mul(row, args[2]))
            out.append(_load(context, b, array, args[0], at, _FLOATS))
        return context.make_tuple(b, kind, out)

    return kind(array, types.int64, types.int64, types.int64), emit


@intrinsic
def prefetch(typing: Any, array: Any, at: Any) -> Any:
    """Ask for the cache line that holds `array[at]`, which may lie behind the end."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        pointer = b.bitcast(_address(context, b, array, args[0], args[1]), _I8.as_pointer())
        name, kind = (
            "llvm.prefetch.p0",
            ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32]),
        )
        known = b.module.globals.get(name) or ir.Function(b.module, kind, name)
        b.call(known, [pointer, _I32(0), _I32(2), _I32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), emit


# -- arithmetic ------------------------------------------------------------------------------------


@intrinsic
def outer_fma(typing: Any, acc: Any, w: Any, x: Any, at: Any, stride: Any) -> Any:
    """`acc[r, v] + x[at + r * stride] * w[v]`: one column of a matrix product, for all rows."""
    width = len(w)

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        accs, ws = cgutils.unpack_tuple(b, args[0]), cgutils.unpack_tuple(b, args[1])
        out = []
        for row in range(len(acc) // width):
            at = b.add(args[3], b.mul(args[4], _I64(row)))
            value = _splat(b, b.load(_address(context, b, x, args[2], at)))
            out += [_call(b, "fma", ws[v], value, accs[row * width + v]) for v in range(width)]
        return context.make_tuple(b, acc, out)

    return acc(acc, w, x, types.int64, types.int64), emit


@intrinsic
def row_fma(typing: Any, acc: Any, w: Any, scale: Any) -> Any:
    """`acc[r, v] + w[r, v] * scale[v]`."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        accs, ws, scales = (cgutils.unpack_tuple(b, x) for x in args)
        out = [_call(b, "fma", w, scales[i % len(scales)], accs[i]) for i, w in enumerate(ws)]
        return context.make_tuple(b, acc, out)

    return acc(acc, w, scale), emit


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
multiply = _elementwise(2, lambda b, x, y: b.fmul(x, y))
divide = _elementwise(2, lambda b, x, y: b.fdiv(x, y))
maximum = _elementwise(2, lambda b, x, y: _call(b, "maxnum", x, y))
fma = _elementwise(3, lambda b, x, y, z: _call(b, "fma", x, y, z))


@intrinsic
def splat(typing: Any, like: Any, x: Any) -> Any:
    """A tuple shaped as `like` with `x` in every lane."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return context.make_tuple(b, like, [_splat(b, args[1])] * len(like))

    return like(like, types.float32), emit


def _exp(b: Any, x: Any) -> Any:
    """e^x to 2 units in the last place: 2^n by the exponent bits, the rest by a polynomial."""
    x = _call(b, "minnum", _call(b, "maxnum", x, _constant(-87.3)), _constant(88.3))
    n = _call(b, "rint", b.fmul(x, _constant(1.4426950408889634)))
    r = _call(b, "fma", n, _constant(-0.693359375), x)
    r = _call(b, "fma", n, _constant(2.12194440e-4), r)
    y = _constant(1.9875691500e-4)  # Cephes' expf
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        y = _call(b, "fma", y, r, _constant(c))
    y = b.fadd(_call(b, "fma", y, b.fmul(r, r), r), _constant(1.0))
    exponent = b.shl(b.fptosi(n, _INTS), ir.Constant(_INTS, [23] * LANES))
    return b.bitcast(b.add(b.bitcast(y, _INTS), exponent), _FLOATS)


def _exp_or_zero(b: Any, x: Any) -> Any:
    """e^x, and exactly 0 for what a float32 softmax cannot see, -inf included."""
    tiny = b.fcmp_ordered("<", x, _constant(-87.0))
    return b.select(tiny, _constant(0.0), _exp(b, x))


exp = _elementwise(1, _exp)
exp_or_zero = _elementwise(1, _exp_or_zero)


def _reduced(name: str) -> Any:
    def typed(typing: Any, x: Any) -> Any:
        def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
            parts = cgutils.unpack_tuple(b, args[0])
            total = parts[0]
            combine = b.fadd if name == "fadd" else (lambda p, q: _call(b, "maxnum", p, q))
            for part in parts[1:]:
                total = combine(total, part)
            half = LANES // 2
            while half:
                mask = ir.Constant(_INTS, [(i + half) % LANES for i in range(LANES)])
                total = combine(total, b.shuffle_vector(total, total, mask))
                half //= 2
            return b.extract_element(total, _I32(0))

        return types.float32(x), emit

    return intrinsic(typed)


sum_lanes = _reduced("fadd")
max_lanes = _reduced("fmax")


@intrinsic
def transposed(typing: Any, x: Any) -> Any:
    """A tuple of LANES vectors as the rows of a square, its columns returned as a tuple."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        rows = list(cgutils.unpack_tuple(b, args[0]))
        step = 1
        while step < LANES:
            low = [i if not i & step else LANES + i - step for i in range(LANES)]
            high = [i + step if not i & step else LANES + i for i in range(LANES)]
            masks = [ir.Constant(_INTS, mask) for mask in (low, high)]
            for i in range(LANES):
                if not i & step:
                    pair = rows[i], rows[i + step]
                    rows[i], rows[i + step] = (b.shuffle_vector(*pair, mask) for mask in masks)
            step *= 2
        return context.make_tuple(b, x, rows)

    return x(x), emit
