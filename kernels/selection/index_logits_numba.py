"""index_logits on a CPU: all threads read the index, once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from specdec.kernels.cpu.jit import num_threads
from specdec.kernels.selection.index_dots_numba import all_dots


def index_logits(q: Tensor, index: Tensor, *, scale: float, signed: bool = False) -> Tensor:
    """See `specdec.kernels.selection.index_logits`."""
    num_threads()
    out = q.new_empty(len(index), q.shape[1], index.shape[1])
    flat, stride = flattened(index)
    all_dots(q.contiguous().numpy(), signed, flat, stride, np.float32(scale), out.numpy())
    return out


def flattened(index: Tensor) -> tuple[NDArray[Any], int]:
    """An index as one line of numbers, and how many there are from head to head."""
    heads, pages, width = index.shape
    index = index.float()
    if index.stride()[1:] != (width, 1):
        index = index.contiguous()
    stride = index.stride(0)
    return index.as_strided(((heads - 1) * stride + pages * width,), (1,)).numpy(), stride
