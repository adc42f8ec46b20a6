"""Weights as a CPU kernel reads them: columns of outputs, in the precision they are stored in.

A matrix `[out, in]` is cut into columns of 16 output rows, or 32; within a column the weights of
one input stand together, one a lane. A pass over few rows then reads every weight once, in order,
and multiplies it with a number that is the same for all lanes: no sums across lanes, no shuffles,
and each row of activations costs only arithmetic. Quantised weights are widened in registers;
scales apply to groups of inputs. A thread takes a panel at a time, 32 outputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from numpy.typing import NDArray

from specdec.kernels.cpu.registers import REGISTER_TILE

PANEL = 32  # outputs: two vectors
COLUMN = PANEL // 2 * REGISTER_TILE[1]  # outputs whose products are made at a time, and so read
WORD = 8  # inputs whose 4-bit codes share a word


class Float32(NamedTuple):
    """`weights: float32[columns, in, COLUMN]`, flat, as are all arrays here."""

    weights: NDArray[Any]


class BFloat16(NamedTuple):
    """Bits of bfloat16: `weights: uint16[columns, in, COLUMN]`."""

    weights: NDArray[Any]


class Float16(NamedTuple):
    """Bits of float16: `weights: uint16[columns, in, COLUMN]`."""

    weights: NDArray[Any]


class Int8(NamedTuple):
    """`codes: int8[columns, in, COLUMN]` times `scale[columns, in / group, COLUMN]`.

    scale: float32, or uint16 for the bits of float16.
    """

    codes: NDArray[Any]
    scale: NDArray[Any]
    group: int


class Int8Affine(NamedTuple):
    """As Int8, plus `minimum[columns, in / group, COLUMN]`."""

    codes: NDArray[Any]
    scale: NDArray[Any]
    minimum: NDArray[Any]
    group: int


class Int4Affine(NamedTuple):
    """As Int8Affine, with `codes: uint32[columns, in / 8, COLUMN]`: a word holds an output's codes
    of eight inputs, the first in the lowest bits. Groups are multiples of 8."""

    codes: NDArray[Any]
    scale: NDArray[Any]
    minimum: NDArray[Any]
    group: int


class Stored(NamedTuple):
    """Blocks of a GGUF as they are, times activations in 8 bits: `records: uint8[columns, in /
    inputs of a block, record]`, columns of 16 outputs, as `stored.formats.FORMATS[kind]` says.

    One type for all formats, so that kernels around a product are compiled once.
    """

    records: NDArray[Any]
    kind: int


Panels: TypeAlias = "Float32 | BFloat16 | Float16 | Int8 | Int8Affine | Int4Affine | Stored"
