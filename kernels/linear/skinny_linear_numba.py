"""skinny_linear on a CPU: every thread takes whole panels, and reads each weight once."""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from specdec.kernels.cpu.function_pointers import call_pointer
from specdec.kernels.cpu.jit import OPTIONS, njit, num_threads, tile_height
from specdec.kernels.cpu.work_stealing import num_shares, shares
from specdec.kernels.linear.gemm.entry_points import calls_of, prepare, share
from specdec.kernels.linear.packed_formats import PANEL
from specdec.kernels.linear.packed_weight import PanelWeight

MANY = 128  # rows from which a panel, if it is not stored blocks, is dequantised for all of them


def skinny_linear(x: Tensor, weight: PanelWeight, bias: Tensor | None = None) -> Tensor:
    """See `specdec.kernels.linear.skinny_linear`."""
    num_threads()
    flat = x.reshape(-1, weight.inputs)
    n = len(flat)
    y = np.empty((n, weight.outputs), np.float32)
    height = tile_height(n)
    dense = n >= MANY and not weight.is_stored
    matrix_product(
        in_whole_tiles(flat, height), weight.panels, y.reshape(-1), n, weight.inputs,
        weight.outputs, height, calls_of(weight.panels, height, dense),
    )  # fmt: skip
    out = torch.from_numpy(y).view(*x.shape[:-1], weight.outputs)
    return out if bias is None else out.add_(bias.detach())


def in_whole_tiles(x: Tensor, height: int) -> np.ndarray:
    """`x[n, k]` as a flat contiguous array with rows of zeros up to whole tiles."""
    x = x.contiguous()
    if len(x) % height:
        x = torch.cat([x, x.new_zeros(height - len(x) % height, x.shape[1])])
    return x.numpy().reshape(-1)


@njit(**OPTIONS)
def matrix_product(x, panels, y, n, inputs, outputs, height, calls):
    """`y[n, outputs] = x[rows, inputs] panels'`, in place; rows is n up to whole tiles."""
    rows = (n + height - 1) // height * height
    prepare_at, product, share_at = calls
    ready, sums = call_pointer(prepare, prepare_at, (panels, x, rows, inputs))
    count = (outputs + PANEL - 1) // PANEL
    todo, no_bias = shares(count), x[:0]
    for t in prange(num_shares(todo)):
        given = todo, t, count, y, panels, ready, sums, no_bias, n, inputs, outputs, product
        call_pointer(share, share_at, given)
