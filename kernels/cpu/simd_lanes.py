"""Sums, maxima and exchanges across the lanes of vectors, from Numba code."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from specdec.kernels.cpu.simd import larger
from specdec.kernels.cpu.simd_types import I32, I64, INTS, LANES, address, every_lane, floats, types


def _folded(b: Any, parts: list[Any], combine: Any) -> Any:
    """All vectors of a tuple as one, in a tree rather than a chain."""
    while len(parts) > 1:
        rest = parts[len(parts) // 2 * 2 :]
        parts = [combine(b, *pair) for pair in zip(parts[::2], parts[1::2], strict=False)] + rest
    return parts[0]


def _reduced(combine: Any) -> Any:
    def typed(typing: Any, x: Any) -> Any:
        def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
            total = _folded(b, cgutils.unpack_tuple(b, args[0]), combine)
            half = LANES // 2
            while half:
                mask = ir.Constant(INTS, [(i + half) % LANES for i in range(LANES)])
                total = combine(b, total, b.shuffle_vector(total, total, mask))
                half //= 2
            return b.extract_element(total, I32(0))

        return types.float32(x), emit

    return intrinsic(typed)


sum_lanes = _reduced(lambda b, x, y: b.fadd(x, y))
max_lanes = _reduced(larger)


@intrinsic
def folded(typing: Any, x: Any) -> Any:
    """The sum of the vectors of a tuple, as a tuple of one."""
    kind = types.UniTuple(floats, 1)

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        parts = cgutils.unpack_tuple(b, args[0])
        return context.make_tuple(b, kind, [_folded(b, parts, lambda b, x, y: b.fadd(x, y))])

    return kind(x), emit


@intrinsic(prefer_literal=True)
def any_above(typing: Any, acc: Any, best: Any, at: Any, vectors: Any) -> Any:
    """Whether any lane of `acc[r, vectors]` is above `best[at + r]`, or no number, for any row."""
    width = vectors.literal_value

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        found = None
        for i, x in enumerate(cgutils.unpack_tuple(b, args[0])):
            row = b.add(args[2], I64(i // width))
            limit = every_lane(b, b.load(address(context, b, best, args[1], row)))
            above = b.fcmp_unordered(">", x, limit)
            found = above if found is None else b.or_(found, above)
        bits = b.bitcast(found, ir.IntType(LANES))
        return b.icmp_unsigned("!=", bits, bits.type(0))

    return types.boolean(acc, best, types.int64, vectors), emit


def _interleaved(b: Any, pair: tuple[Any, Any], step: int) -> list[Any]:
    """Two vectors as two others: lanes without `step` in their number, and those with it."""
    low = [i if not i & step else LANES + i - step for i in range(LANES)]
    high = [i + step if not i & step else LANES + i for i in range(LANES)]
    return [b.shuffle_vector(*pair, ir.Constant(INTS, mask)) for mask in (low, high)]


@intrinsic(prefer_literal=True)
def pair_sums(typing: Any, x: Any, step: Any) -> Any:
    """Half as many vectors: of each two the sums of lanes `step` (a literal) apart.

    Lanes without `step` in their number hold sums of the first, those with it of the second. With
    steps of 8, 4, 2 and 1 sixteen vectors become one, of their sums over all lanes.
    """
    kind, apart = types.UniTuple(floats, len(x) // 2), step.literal_value

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        parts = cgutils.unpack_tuple(b, args[0])
        pairs = zip(parts[::2], parts[1::2], strict=True)
        sums = [b.fadd(*_interleaved(b, pair, apart)) for pair in pairs]
        return context.make_tuple(b, kind, sums)

    return kind(x, step), emit


@intrinsic
def transposed(typing: Any, x: Any) -> Any:
    """A tuple of LANES vectors as the rows of a square, its columns returned as a tuple."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        rows = list(cgutils.unpack_tuple(b, args[0]))
        step = 1
        while step < LANES:
            for i in range(LANES):
                if not i & step:
                    pair = rows[i], rows[i + step]
                    rows[i], rows[i + step] = _interleaved(b, pair, step)
            step *= 2
        return context.make_tuple(b, x, rows)

    return x(x), emit
