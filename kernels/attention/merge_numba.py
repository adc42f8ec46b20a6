"""merge on a CPU: partial after partial is folded into the first."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numba import prange
from torch import Tensor

from specdec.kernels.cpu.jit import OPTIONS, njit, num_threads


def merge(partials: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """See `specdec.kernels.attention.merge`."""
    if len(partials) == 1:
        return partials[0]
    num_threads()
    o, lse = (x.clone(memory_format=torch.contiguous_format) for x in partials[0])
    width = o.shape[-1]
    for part, more in partials[1:]:
        _fold(
            o.numpy().reshape(-1), lse.numpy().reshape(-1),
            part.contiguous().numpy().reshape(-1), more.contiguous().numpy().reshape(-1), width,
        )  # fmt: skip
    return o, lse


@njit(**OPTIONS)
def _fold(o, lse, part, more, width):
    """The union of two partials, in place of the first."""
    for i in prange(len(lse)):
        top = max(lse[i], more[i])
        if top > -np.inf:
            old, new = math.exp(lse[i] - top), math.exp(more[i] - top)
            total = old + new
            lse[i] = top + math.log(total)
            kept, added = np.float32(old / total), np.float32(new / total)
            for d in range(i * width, (i + 1) * width):
                o[d] = o[d] * kept + part[d] * added
