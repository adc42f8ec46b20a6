"""Codes, scales and minima of weights in panels, read as vectors from Numba code.

Each function of this file stands for several, one for each storage format, chosen when a kernel is
compiled: the type of the `panels` argument says which. `width` is any tuple: as many vectors as it
is long are read, from the given lane of a panel on.
"""

from __future__ import annotations

from typing import Any

from numba.extending import overload

from specdec.kernels import simd, simd_memory, simd_words
from specdec.kernels.panel_formats import (
    PANEL,
    WORD,
    BFloat16,
    Float16,
    Float32,
    Int8,
    Int8Affine,
)

ONE, TWO = (0,), (0, 0)


def codes_of(panels: Any, at: int, lane: int, width: Any) -> Any:
    """The codes of one input, `at` inputs into the matrix."""
    raise NotImplementedError("for compiled code only")


@overload(codes_of, inline="always")
def _codes_of(panels, at, lane, width):
    kind = panels.instance_class
    if kind is Float32 or kind is Int8 or kind is Int8Affine:
        field = 0
        return lambda panels, at, lane, width: simd_memory.load(
            panels[field], at * PANEL + lane, width
        )
    if kind is BFloat16:
        return lambda panels, at, lane, width: simd_memory.load_bfloat16(
            panels.weights, at * PANEL + lane, width
        )
    if kind is Float16:
        return lambda panels, at, lane, width: simd_memory.load_float16(
            panels.weights, at * PANEL + lane, width
        )

    def words(panels, at, lane, width):
        codes = simd_words.load_words(panels.codes, at // WORD * PANEL + lane, width)
        return simd_words.nibble(codes, at % WORD)

    return words


def scales(array: Any, at: int, width: Any) -> Any:
    """Scales or minima from `array[at]` on: float32 as they are, uint16 as bits of float16."""
    raise NotImplementedError("for compiled code only")


@overload(scales, inline="always")
def _scales(array, at, width):
    if array.dtype.bitwidth == 16:
        return lambda array, at, width: simd_memory.load_float16(array, at, width)
    return lambda array, at, width: simd_memory.load(array, at, width)


def minima(acc: Any, panels: Any, at: int, width: Any, sums: Any, place: int, stride: int) -> Any:
    """`acc` plus the minima of one group, from `at` on, times the sums of its inputs, of row r at
    `sums[place + r * stride]`, if the format has any."""
    raise NotImplementedError("for compiled code only")


@overload(minima, inline="always")
def _minima(acc, panels, at, width, sums, place, stride):
    if hasattr(panels.instance_class, "minimum"):
        return lambda acc, panels, at, width, sums, place, stride: simd.outer_fma(
            acc, scales(panels.minimum, at, width), sums, place, stride
        )
    return lambda acc, panels, at, width, sums, place, stride: acc
