"""Reading weights in panels, whatever their format, from Numba code.

Each function of this file stands for several, one for each storage format, chosen when a kernel is
compiled: the type of the `panels` argument says which.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload

from specdec.kernels import simd, simd_memory, simd_words
from specdec.kernels.numba_options import SERIAL, njit
from specdec.kernels.panel_formats import (
    PANEL,
    WORD,
    BFloat16,
    Float16,
    Float32,
    Int4Affine,
    Int8,
    Int8Affine,
)


def accumulate(panels: Any, panel: int, x: Any, sums: Any, row: int, inputs: int, rows: Any) -> Any:
    """Products of one panel with `len(rows)` rows of `x[:, inputs]` from `row` on.

    Returns the accumulators, `len(rows) x 2` vectors. x, sums: of `prepared` for these panels.
    """
    raise NotImplementedError("for compiled code only")


def widen(array: Any, at: int) -> Any:
    """Two vectors of scales: float32 as they are, uint16 as bits of float16."""
    raise NotImplementedError("for compiled code only")


@overload(widen, inline="always")
def _widen(array, at):
    if array.dtype.bitwidth == 16:
        return lambda array, at: simd_memory.load_float16(array, at, 2)
    return lambda array, at: simd_memory.load(array, at, 2)


def codes_of(panels: Any, at: int) -> Any:
    """The codes of one input, `at` inputs into the matrix, as two vectors."""
    raise NotImplementedError("for compiled code only")


@overload(codes_of, inline="always")
def _codes_of(panels, at):
    kind = panels.instance_class
    if kind is Float32 or kind is Int8 or kind is Int8Affine:
        field = 0
        return lambda panels, at: simd_memory.load(panels[field], at * PANEL, 2)
    if kind is BFloat16:
        return lambda panels, at: simd_memory.load_bfloat16(panels.weights, at * PANEL, 2)
    if kind is Float16:
        return lambda panels, at: simd_memory.load_float16(panels.weights, at * PANEL, 2)

    def words(panels, at):
        codes = simd_words.load_words(panels.codes, at // WORD * PANEL)
        return simd_words.nibble(codes, at % WORD)

    return words


def minimum_part(acc: Any, panels: Any, at: int, sums: Any, place: int, stride: int) -> Any:
    """`acc` plus the minima of one group times the sums of its inputs, if the format has any."""
    raise NotImplementedError("for compiled code only")


@overload(minimum_part, inline="always")
def _minimum_part(acc, panels, at, sums, place, stride):
    if hasattr(panels.instance_class, "minimum"):
        return lambda acc, panels, at, sums, place, stride: simd.outer_fma(
            acc, widen(panels.minimum, at), sums, place, stride
        )
    return lambda acc, panels, at, sums, place, stride: acc


def group_part(
    panels: Any, panel: int, x: Any, row: int, first: int, inputs: int, rows: Any
) -> Any:
    """Products of the codes of one group, from input `first` on, with `len(rows)` rows of x."""
    raise NotImplementedError("for compiled code only")


@overload(group_part, inline="always")
def _group_part(panels, panel, x, row, first, inputs, rows):
    paired = len(rows) < 8  # registers for two sets of accumulators, which hide the latency of one
    if panels.instance_class is Int4Affine:

        def words_paired(panels, panel, x, row, first, inputs, rows):
            at, here = panel * inputs + first, row * inputs + first * len(rows)
            even, odd = simd.zeros(rows, 2), simd.zeros(rows, 2)
            for j in range(0, panels.group, WORD):
                words = simd_words.load_words(panels.codes, (at + j) // WORD * PANEL)
                even = simd_words.word_fma(even, words, x, here + j * len(rows), 0, 2)
                odd = simd_words.word_fma(odd, words, x, here + j * len(rows), 1, 2)
            return simd.add(even, odd)

        def words_wide(panels, panel, x, row, first, inputs, rows):
            at, here = panel * inputs + first, row * inputs + first * len(rows)
            part = simd.zeros(rows, 2)
            for j in range(0, panels.group, WORD):
                words = simd_words.load_words(panels.codes, (at + j) // WORD * PANEL)
                part = simd_words.word_fma(part, words, x, here + j * len(rows), 0, 1)
            return part

        return words_paired if paired else words_wide

    def single_paired(panels, panel, x, row, first, inputs, rows):
        at, here = panel * inputs + first, row * inputs + first
        even, odd = simd.zeros(rows, 2), simd.zeros(rows, 2)
        for j in range(0, panels.group - 1, 2):
            even = simd.outer_fma(even, codes_of(panels, at + j), x, here + j, inputs)
            odd = simd.outer_fma(odd, codes_of(panels, at + j + 1), x, here + j + 1, inputs)
        if panels.group & 1:  # a whole row may be of any length
            last = panels.group - 1
            even = simd.outer_fma(even, codes_of(panels, at + last), x, here + last, inputs)
        return simd.add(even, odd)

    def single_wide(panels, panel, x, row, first, inputs, rows):
        at, here = panel * inputs + first, row * inputs + first
        part = simd.zeros(rows, 2)
        for j in range(panels.group):
            part = simd.outer_fma(part, codes_of(panels, at + j), x, here + j, inputs)
        return part

    return single_paired if paired else single_wide


@overload(accumulate)
def _accumulate(panels, panel, x, sums, row, inputs, rows):
    if hasattr(panels.instance_class, "scale"):

        def grouped(panels, panel, x, sums, row, inputs, rows):
            acc = simd.zeros(rows, 2)
            group = panels.group
            groups = inputs // group
            for g in range(groups):
                part = group_part(panels, panel, x, row, g * group, inputs, rows)
                place = (panel * groups + g) * PANEL
                acc = simd.row_fma(acc, part, widen(panels.scale, place))
                acc = minimum_part(acc, panels, place, sums, row * groups + g, groups)
            return acc

        return grouped

    def plain(panels, panel, x, sums, row, inputs, rows):
        acc = simd.zeros(rows, 2)
        at, here = panel * inputs, row * inputs
        for j in range(inputs):
            acc = simd.outer_fma(acc, codes_of(panels, at + j), x, here + j, inputs)
        return acc

    return plain


@njit(**SERIAL)
def dense_panel(panels, panel, inputs):
    """One panel as Float32: worth its cost where many rows will use it."""
    out = np.empty(inputs * PANEL, np.float32)
    for j in range(inputs):
        simd_memory.store(weights_of(panels, panel, j, inputs), out, j * PANEL, 0, 2)
    return Float32(out)


def weights_of(panels: Any, panel: int, j: int, inputs: int) -> Any:
    """The weights of input `j` in one panel, widened and scaled, as two vectors."""
    raise NotImplementedError("for compiled code only")


@overload(weights_of, inline="always")
def _weights_of(panels, panel, j, inputs):
    kind = panels.instance_class
    if not hasattr(kind, "scale"):
        return lambda panels, panel, j, inputs: codes_of(panels, panel * inputs + j)
    if not hasattr(kind, "minimum"):

        def scaled(panels, panel, j, inputs):
            place = (panel * inputs + j) // panels.group * PANEL
            return simd.multiply(codes_of(panels, panel * inputs + j), widen(panels.scale, place))

        return scaled

    def affine(panels, panel, j, inputs):
        place = (panel * inputs + j) // panels.group * PANEL
        codes = codes_of(panels, panel * inputs + j)
        return simd.fma(codes, widen(panels.scale, place), widen(panels.minimum, place))

    return affine
