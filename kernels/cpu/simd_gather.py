"""Reading vectors from places that an array names, from Numba code.

All take `(array, where, at, offset, ...)`: place i is `array[where[at + i] + offset]`, float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from specdec.kernels.cpu.simd_memory import load_vector
from specdec.kernels.cpu.simd_types import FLOATS, I32, I64, INTS, LANES, address, floats, types

_QUAD = ir.VectorType(ir.FloatType(), 4)


def _load_at(context: Any, b: Any, signature: Any, args: Any, i: int, vector: Any, n: int) -> Any:
    """Vector n of those that stand at place i."""
    array, where = signature.args[:2]
    start = b.load(address(context, b, where, args[1], b.add(args[2], I64(i))))
    at = b.add(b.add(start, args[3]), I64(n * LANES))
    return load_vector(context, b, array, args[0], at, vector)


def _load_rows(places: Sequence[int]) -> Any:
    kind = types.UniTuple(floats, len(places))

    def typed(typing: Any, array: Any, where: Any, at: Any, offset: Any) -> Any:
        def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
            out = [_load_at(context, b, signature, args, i, FLOATS, 0) for i in places]
            return context.make_tuple(b, kind, out)

        return kind(array, where, types.int64, types.int64), emit

    return intrinsic(typed)


# One vector from each of LANES places, or from the four whose sums `pair_sums` of 8 and 4 puts into
# neighbouring groups of lanes.
load_rows = _load_rows(range(LANES))
load_four_rows = _load_rows((0, 8, 4, 12))


@intrinsic
def load_tile(
    typing: Any, array: Any, where: Any, at: Any, offset: Any, rows: Any, width: Any
) -> Any:
    """`len(rows) x len(width)` vectors: row i from place i on."""
    kind = types.UniTuple(floats, len(rows) * len(width))

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        out = [
            _load_at(context, b, signature, args, i, FLOATS, n)
            for i in range(len(rows))
            for n in range(len(width))
        ]
        return context.make_tuple(b, kind, out)

    return kind(array, where, types.int64, types.int64, rows, width), emit


@intrinsic
def load_columns(typing: Any, array: Any, where: Any, at: Any, offset: Any) -> Any:
    """Four vectors whose lanes are LANES places: lane i of vector j is the number j behind place i.

    Four numbers of every fourth place make a vector, so that 4 x 4 numbers change places within
    quarters of vectors alone, an instruction for each register.
    """
    kind = types.UniTuple(floats, 4)

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        quads = [_load_at(context, b, signature, args, i, _QUAD, 0) for i in range(LANES)]
        w, x, y, z = (_concatenated(b, quads[i::4]) for i in range(4))
        wx, yz = _alternated(b, w, x, 1), _alternated(b, y, z, 1)
        columns = _alternated(b, wx[0], yz[0], 2) + _alternated(b, wx[1], yz[1], 2)
        return context.make_tuple(b, kind, columns)

    return kind(array, where, types.int64, types.int64), emit


def _concatenated(b: Any, parts: list[Any]) -> Any:
    while len(parts) > 1:
        lanes = range(2 * parts[0].type.count)
        mask = ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
        parts = [b.shuffle_vector(*two, mask) for two in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _alternated(b: Any, x: Any, y: Any, size: int) -> list[Any]:
    """Two vectors: in each quarter, groups of `size` lanes of x and y by turns, those of the first
    half of the quarter in one vector and those of the second in the other."""
    out = []
    for half in 0, 2:
        starts = [q + i for q in range(half, LANES, 4) for i in range(0, 2, size)]
        lanes = [v + s + i for s in starts for v in (0, LANES) for i in range(size)]
        out.append(b.shuffle_vector(x, y, ir.Constant(INTS, lanes)))
    return out
