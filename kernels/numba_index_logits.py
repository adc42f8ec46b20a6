"""index_logits on a CPU: all threads read the index, once."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from specdec.kernels.numba_index_dots import all_dots
from specdec.kernels.numba_options import num_threads


def index_logits(q: Tensor, index: Tensor, *, scale: float, signed: bool = False) -> Tensor:
    """See `specdec.kernels.index_logits`."""
    num_threads()
    heads, pages, width = index.shape
    index = index.float()
    if index.stride()[1:] != (width, 1):
        index = index.contiguous()
    stride = index.stride(0)
    flat = index.as_strided(((heads - 1) * stride + pages * width,), (1,))
    out = q.new_empty(heads, q.shape[1], pages)
    all_dots(q.contiguous().numpy(), signed, flat.numpy(), stride, np.float32(scale), out.numpy())
    return out
