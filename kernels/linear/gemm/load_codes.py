"""Codes, scales and minima of weights in columns, read as the vectors of a column from Numba code.

Each function of this file stands for several, one for each storage format, chosen when a kernel is
compiled: the type of the `panels` argument says which.
"""

from __future__ import annotations

from typing import Any

from numba.extending import overload

from specdec.kernels.cpu import simd, simd_memory, simd_nibbles
from specdec.kernels.cpu.jit import inner
from specdec.kernels.cpu.registers import REGISTER_TILE
from specdec.kernels.linear.packed_formats import COLUMN, WORD, BFloat16, Float16, Int4Affine

VECTORS = REGISTER_TILE[1]  # of a column
ACROSS = (0,) * VECTORS
_LOADS = {
    BFloat16: simd_memory.load_bfloat16,
    Float16: simd_memory.load_float16,
    Int4Affine: simd_nibbles.load_words,
}


def codes_of(panels: Any, at: int) -> Any:
    """The codes of one input from `codes[at]` on, or the words of eight."""
    raise NotImplementedError("for compiled code only")


@overload(codes_of, inline="always")
def _codes_of(panels, at):
    load, field = _LOADS.get(panels.instance_class, simd_memory.load), 0
    return lambda panels, at: load(panels[field], at, ACROSS)


def scales(array: Any, at: int) -> Any:
    """Scales or minima from `array[at]` on: float32 as they are, uint16 as bits of float16."""
    raise NotImplementedError("for compiled code only")


@overload(scales, inline="always")
def _scales(array, at):
    load = simd_memory.load_float16 if array.dtype.bitwidth == 16 else simd_memory.load
    return lambda array, at: load(array, at, ACROSS)


def weights_of(panels: Any, column: int, j: int, inputs: int) -> Any:
    """The weights of input `j` in one column, widened and scaled."""
    raise NotImplementedError("for compiled code only")


@overload(weights_of, inline="always")
def _weights_of(panels, column, j, inputs):
    kind = panels.instance_class

    def codes(panels, column, j, inputs):
        return codes_of(panels, (column * inputs + j) * COLUMN)

    def nibbles(panels, column, j, inputs):
        words = codes_of(panels, (column * inputs + j) // WORD * COLUMN)
        return simd_nibbles.nibble(words, j % WORD)

    if not hasattr(kind, "scale"):
        return codes
    unscaled = inner(nibbles if kind is Int4Affine else codes)

    def scaled(panels, column, j, inputs):
        at = (column * inputs + j) // panels.group * COLUMN
        return simd.multiply(unscaled(panels, column, j, inputs), scales(panels.scale, at))

    def affine(panels, column, j, inputs):
        at = (column * inputs + j) // panels.group * COLUMN
        scale, minimum = scales(panels.scale, at), scales(panels.minimum, at)
        return simd.fma(unscaled(panels, column, j, inputs), scale, minimum)

    return affine if hasattr(kind, "minimum") else scaled
