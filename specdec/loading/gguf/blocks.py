"""The quantised blocks of a GGUF tensor as plain arrays: codes, scales and minima.

The layouts are those of llama.cpp (ggml-quants). A weight is `scale * code`, plus `minimum` where
the format has one; scales of the K types, products of a float16 and a small integer, are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# The 16 values that the codes of the IQ4 types stand for.
_IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


class Codes(NamedTuple):
    """`codes[out, in]` of so many bits, `scale[out, groups]`, and `minimum` like it or None."""

    codes: Array
    scale: Array
    minimum: Array | None
    bits: int

    def values(self) -> Array:
        """The weights `float32[out, in]`, rounded as GGUF's reference rounds them."""
        values = self.codes.reshape(*self.scale.shape, -1).astype(np.float32)
        values *= self.scale.astype(np.float32)[..., None]
        if self.minimum is not None:
            values += self.minimum.astype(np.float32)[..., None]
        return values.reshape(self.codes.shape)


def decode(kind: str, data: Array) -> Codes:
    """The rows of a tensor of type `kind`, one of `TYPES`; data: `uint8[rows, bytes]`."""
    size, unpack = TYPES[kind]
    codes, scale, minimum, bits = unpack(data.reshape(len(data), -1, size))
    rows = len(data)
    return Codes(
        codes.reshape(rows, -1),
        scale.reshape(rows, -1),
        None if minimum is None else minimum.reshape(rows, -1),
        bits,
    )


def _half(b: Array, at: int) -> Array:
    """One float16 a block: `[rows, blocks, 1]`."""
    return np.ascontiguousarray(b[..., at : at + 2]).view(np.float16)


def _shifted(b: Array, run: int, *shifts: int) -> Array:
    """Each run of bytes shifted right by each of `shifts`: `[rows, blocks, runs x shifts, run]`."""
    by = np.array(shifts, np.uint8)[:, None]
    wide = b.reshape(*b.shape[:2], -1, 1, run) >> by
    return wide.reshape(*b.shape[:2], -1, run)


def _nibbles(b: Array, run: int = 16) -> Array:
    """Low halves of a run of bytes, then its high halves."""
    return _shifted(b, run, 0, 4) & 15


def _fifth_bits(b: Array) -> Array:
    """Bit i of four bytes is the fifth bit of code i: `[rows, blocks, 2, 16]`."""
    bits = np.unpackbits(np.ascontiguousarray(b), axis=-1, bitorder="little")
    return bits.reshape(*b.shape[:2], 2, 16) << 4


def _q4_0(b: Array) -> Codes:
    scale = _half(b, 0)
    lowest = scale.astype(np.float32) * -8
    with np.errstate(over="ignore"):
        half = lowest.astype(np.float16)
    return Codes(_nibbles(b[..., 2:]), scale, half if np.all(half == lowest) else lowest, 4)


def _q4_1(b: Array) -> Codes:
    return Codes(_nibbles(b[..., 4:]), _half(b, 0), _half(b, 2), 4)


def _q5_0(b: Array) -> Codes:
    codes = _nibbles(b[..., 6:]) | _fifth_bits(b[..., 2:6])
    return Codes(codes.astype(np.int8) - np.int8(16), _half(b, 0), None, 8)


def _q5_1(b: Array) -> Codes:
    codes = _nibbles(b[..., 8:]) | _fifth_bits(b[..., 4:8])
    return Codes(codes, _half(b, 0), _half(b, 2), 8)


def _q8_0(b: Array) -> Codes:
    return Codes(np.ascontiguousarray(b[..., 2:]).view(np.int8), _half(b, 0), None, 8)


def _q2_k(b: Array) -> Codes:
    scale = _half(b, 80).astype(np.float32) * (b[..., :16] & 15)
    minimum = _half(b, 82).astype(np.float32) * (b[..., :16] >> 4)
    return Codes(_shifted(b[..., 16:80], 32, 0, 2, 4, 6) & 3, scale, -minimum, 4)


def _q3_k(b: Array) -> Codes:
    scales = b[..., 96:108]
    low = _shifted(scales[..., :8], 8, 0, 4).reshape(*b.shape[:2], 16) & 15
    high = _shifted(scales[..., 8:], 4, 0, 2, 4, 6).reshape(*b.shape[:2], 16) & 3
    scale = _half(b, 108).astype(np.float32) * ((low | high << 4).astype(np.int8) - np.int8(32))
    # A set bit in the mask spares the code 4 less: codes are -4..3, here 0..7 and a minimum.
    third = _shifted(b[..., :32], 32, *range(8)) & 1
    return Codes(_shifted(b[..., 32:96], 32, 0, 2, 4, 6) & 3 | third << 2, scale, scale * -4, 4)


def _k_scales(b: Array) -> tuple[Array, Array]:
    """Scales and minima `float32[rows, blocks, 8]` of Q4_K and Q5_K: six bits each, in 12 bytes."""
    low, middle, high = b[..., 4:8], b[..., 8:12], b[..., 12:16]
    scales = np.concatenate([low & 63, high & 15 | low >> 2 & 48], axis=-1)
    minima = np.concatenate([middle & 63, high >> 4 | middle >> 2 & 48], axis=-1)
    return _half(b, 0).astype(np.float32) * scales, _half(b, 2).astype(np.float32) * minima


def _q4_k(b: Array) -> Codes:
    scale, minimum = _k_scales(b)
    return Codes(_nibbles(b[..., 16:], 32), scale, -minimum, 4)


def _q5_k(b: Array) -> Codes:
    scale, minimum = _k_scales(b)
    fifth = (_shifted(b[..., 16:48], 32, *range(8)) & 1) << 4
    return Codes(_nibbles(b[..., 48:], 32) | fifth, scale, -minimum, 8)


def _q6_k(b: Array) -> Codes:
    scale = _half(b, 208).astype(np.float32) * b[..., 192:208].view(np.int8)
    low = _nibbles(b[..., :128], 64).reshape(*b.shape[:2], -1, 32)
    high = _shifted(b[..., 128:192], 32, 0, 2, 4, 6) & 3
    return Codes((low | high << 4).astype(np.int8) - np.int8(32), scale, None, 8)


def _iq4_nl(b: Array) -> Codes:
    return Codes(_IQ4[_nibbles(b[..., 2:])], _half(b, 0), None, 8)


def _iq4_xs(b: Array) -> Codes:
    high = np.ascontiguousarray(b[..., 2:4]).view(np.uint16) >> np.arange(0, 16, 2, dtype=np.uint16)
    low = _shifted(b[..., 4:8], 1, 0, 4).reshape(*b.shape[:2], 8) & 15
    scales = (low | (high & 3).astype(np.uint8) << 4).astype(np.int8) - np.int8(32)
    scale = _half(b, 0).astype(np.float32) * scales
    return Codes(_IQ4[_nibbles(b[..., 8:])], scale, None, 8)


# Bytes of a block, and what unpacks `uint8[rows, blocks, bytes]`.
TYPES: dict[str, tuple[int, Callable[[Array], Codes]]] = {
    "Q4_0": (18, _q4_0),
    "Q4_1": (20, _q4_1),
    "Q5_0": (22, _q5_0),
    "Q5_1": (24, _q5_1),
    "Q8_0": (34, _q8_0),
    "Q2_K": (84, _q2_k),
    "Q3_K": (110, _q3_k),
    "Q4_K": (144, _q4_k),
    "Q5_K": (176, _q5_k),
    "Q6_K": (210, _q6_k),
    "IQ4_NL": (18, _iq4_nl),
    "IQ4_XS": (136, _iq4_xs),
}
