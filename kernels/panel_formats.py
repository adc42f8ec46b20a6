"""Weights as a CPU kernel reads them: panels of 32 outputs, in the precision they are stored in.

A matrix `[out, in]` is cut into panels of 32 output rows; within a panel the 32 weights of one
input stand together, one a lane. A pass over few rows then reads every weight once, in order, and
multiplies it with a number that is the same for all lanes: no sums across lanes, no shuffles, and
each row of activations costs only arithmetic. Quantised weights are widened in registers; scales
apply to groups of inputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from numpy.typing import NDArray

PANEL = 32  # outputs
WORD = 8  # inputs whose 4-bit codes share a word


class Float32(NamedTuple):
    """`weights: float32[panels, in, 32]`, flat, as are all arrays here."""

    weights: NDArray[Any]


class BFloat16(NamedTuple):
    """Bits of bfloat16: `weights: uint16[panels, in, 32]`."""

    weights: NDArray[Any]


class Float16(NamedTuple):
    """Bits of float16: `weights: uint16[panels, in, 32]`."""

    weights: NDArray[Any]


class Int8(NamedTuple):
    """`codes: int8[panels, in, 32]` times `scale[panels, in / group, 32]`.

    scale: float32, or uint16 for the bits of float16.
    """

    codes: NDArray[Any]
    scale: NDArray[Any]
    group: int


class Int8Affine(NamedTuple):
    """As Int8, plus `minimum[panels, in / group, 32]`."""

    codes: NDArray[Any]
    scale: NDArray[Any]
    minimum: NDArray[Any]
    group: int


class Int4Affine(NamedTuple):
    """As Int8Affine, with `codes: uint32[panels, in / 8, 32]`: a word holds an output's codes of
    eight inputs, the first in the lowest bits. Groups are multiples of 8."""

    codes: NDArray[Any]
    scale: NDArray[Any]
    minimum: NDArray[Any]
    group: int


Panels: TypeAlias = "Float32 | BFloat16 | Float16 | Int8 | Int8Affine | Int4Affine"
