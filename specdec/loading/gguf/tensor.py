"""Tensor: a tensor of a GGUF as its blocks, and their values in float32."""

from __future__ import annotations

from typing import Any, NamedTuple

import gguf
import numpy as np
from numpy.typing import NDArray

from specdec.loading.gguf.blocks import TYPES, decode

Array = NDArray[Any]
_CHUNK = 1 << 19  # values dequantised at a time: the steps between take memory, too
_FLOATS = {"F32": np.float32, "F16": np.float16, "F64": np.float64}


class Tensor(NamedTuple):
    """A tensor of type `kind`; shape: as in PyTorch; data: its blocks, `uint8[rows, bytes]`."""

    kind: str
    shape: tuple[int, ...]
    data: Array

    def values(self) -> Array:
        """The values, `float32[shape]`, a copy, rounded as GGUF's reference rounds them."""
        rows, inputs = len(self.data), self.shape[-1]
        values = np.empty((rows, inputs), np.float32)
        step = max(1, _CHUNK // inputs)
        for start in range(0, rows, step):
            values[start : start + step] = _dequantised(self.kind, self.data[start : start + step])
        return values.reshape(self.shape)


def _dequantised(kind: str, data: Array) -> Array:
    if kind in _FLOATS:
        floats: Array = np.ascontiguousarray(data).view(_FLOATS[kind])
        return floats
    if kind in TYPES:
        return decode(kind, data).values()
    values: Array = gguf.dequantize(data, gguf.GGMLQuantizationType[kind])
    return values
