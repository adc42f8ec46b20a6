"""4-bit codes in vectors of words: eight of a lane in 32 bits, the first in the lowest.

A code is masked where it stands and converted, not shifted down: two instructions of which the
second runs beside the products. What it is too large by, `PLACES`, is taken from the numbers that
it is multiplied with.
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
    every_lane,
    floats,
    types,
)
from specdec.kernels.linear.packed_formats import WORD

PLACES = (*(16.0**k for k in range(WORD - 1)), 1.0)  # the last is shifted: it would reach the sign


@intrinsic
def load_words(typing: Any, array: Any, at: Any, vectors: Any) -> Any:
    """`len(vectors)` vectors of words from `uint32 array[at]` on, as the bits of floats."""
    kind = types.UniTuple(floats, len(vectors))

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        out = []
        for i in range(len(kind)):
            place = address(context, b, array, args[0], b.add(args[1], I64(i * LANES)))
            out.append(b.load(b.bitcast(place, FLOATS.as_pointer()), align=4))
        return context.make_tuple(b, kind, out)

    return kind(array, types.int64, vectors), emit


@intrinsic(prefer_literal=True)
def word_fma(
    typing: Any, acc: Any, words: Any, x: Any, at: Any, height: Any, first: Any, step: Any
) -> Any:
    """`acc[r, v] + sum x[at + k * height + r] * c[k, v]`, over the 4-bit codes k of words.

    k: 0 to 7 by `step` from `first` on, both literals. c[k] is code k times `PLACES[k]`: x is to
    hold numbers divided by that, which is exact down to 2^-102.
    """
    width, places = len(words), range(first.literal_value, WORD, step.literal_value)
    rows = len(acc) // width

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        accs, ws = list(cgutils.unpack_tuple(b, args[0])), cgutils.unpack_tuple(b, args[1])
        codes = [b.bitcast(w, INTS) for w in ws]
        for k in places:
            if k < WORD - 1:
                c = [b.and_(w, ir.Constant(INTS, [15 << 4 * k] * LANES)) for w in codes]
            else:
                c = [b.lshr(w, ir.Constant(INTS, [28] * LANES)) for w in codes]
            c = [b.sitofp(w, FLOATS) for w in c]
            for row in range(rows):
                here = b.add(b.add(args[3], b.mul(args[4], I64(k))), I64(row))
                value = every_lane(b, b.load(address(context, b, x, args[2], here)))
                for i in range(row * width, row * width + width):
                    accs[i] = call(b, "fma", c[i % width], value, accs[i])
        return context.make_tuple(b, acc, accs)

    return acc(acc, words, x, types.int64, types.int64, first, step), emit


@intrinsic
def nibble(typing: Any, words: Any, k: Any) -> Any:
    """The k-th 4-bit code of each word, from the lowest bits on."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        shift = b.trunc(b.mul(args[1], I64(4)), I32)
        shifts = b.bitcast(every_lane(b, b.bitcast(shift, FLOATS.element)), INTS)
        codes = [b.bitcast(w, INTS) for w in cgutils.unpack_tuple(b, args[0])]
        low = [b.and_(b.lshr(w, shifts), ir.Constant(INTS, [15] * LANES)) for w in codes]
        return context.make_tuple(b, words, [b.sitofp(w, FLOATS) for w in low])

    return words(words, types.int64), emit
