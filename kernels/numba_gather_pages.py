"""gather_pages on a CPU: a copy, page by page."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from specdec.kernels.numba_options import SERIAL, njit


def gather_pages(x: Tensor, pages: Tensor, page_size: int) -> Tensor:
    """See `specdec.kernels.gather_pages`."""
    return torch.from_numpy(_gather(x.numpy(), pages.numpy(), page_size))


@njit(**SERIAL)
def _gather(x, pages, page_size):
    heads, count = pages.shape
    out = np.empty((heads, count * page_size, x.shape[2]), x.dtype)
    for h in range(heads):
        for i in range(count):
            for j in range(page_size):
                for d in range(x.shape[2]):
                    out[h, i * page_size + j, d] = x[h, pages[h, i] * page_size + j, d]
    return out
