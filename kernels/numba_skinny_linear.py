"""skinny_linear on a CPU: every thread takes whole panels, and reads each weight once."""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from specdec.kernels import simd, simd_memory
from specdec.kernels.numba_far_calls import far_call
from specdec.kernels.numba_options import OPTIONS, inner, njit, num_threads, tile
from specdec.kernels.numba_panel_inputs import ONES, in_tiles, prepared
from specdec.kernels.numba_panels import dense_panel, panel_product, product_at
from specdec.kernels.panel_formats import PANEL, Float32, Panels
from specdec.kernels.panel_weight import PanelWeight

_DENSE = Float32(np.empty(0, np.float32))
MANY = 32  # rows from which a panel is dequantised once for all of them


def skinny_linear(x: Tensor, weight: PanelWeight, bias: Tensor | None = None) -> Tensor:
    """See `specdec.kernels.skinny_linear`."""
    num_threads()
    flat = x.reshape(-1, weight.inputs)
    n = len(flat)
    padded = rows_of(flat, n)
    y = np.empty((n, weight.outputs), np.float32)
    read: Panels = weight.panels if n < MANY else _DENSE
    matrix_product(
        padded.reshape(-1), weight.panels, y.reshape(-1), n, *_sizes(weight), tile(n),
        product_at(read, tile(n)),
    )  # fmt: skip
    out = torch.from_numpy(y).view(*x.shape[:-1], weight.outputs)
    return out if bias is None else out.add_(bias.detach())


def rows_of(x: Tensor, n: int) -> np.ndarray:
    """`x[n, k]` as a contiguous array with rows of zeros up to a whole tile."""
    x = x.contiguous()
    height = len(tile(n))
    if n % height:
        x = torch.cat([x, x.new_zeros(height - n % height, x.shape[1])])
    return x.numpy()


def _sizes(weight: PanelWeight) -> tuple[int, int]:
    return weight.inputs, weight.outputs


@njit(**OPTIONS)
def matrix_product(x, panels, y, n, inputs, outputs, tile, call):
    """`y[n, outputs] = x[rows, inputs] panels'`, in place; rows is n up to whole tiles.

    call: `product_at` of what is multiplied: the panels, or from `MANY` rows on dense ones.
    """
    height = len(tile)
    rows = (n + height - 1) // height * height
    if n < MANY:
        ready, sums = prepared(panels, x, rows, inputs, tile)
    else:
        ready, sums = in_tiles(x, rows, inputs, tile, ONES), x[:0]
    for panel in prange((outputs + PANEL - 1) // PANEL):
        if n < MANY:
            for row in range(0, n, height):
                given = panels, panel, ready, sums, row, inputs, tile
                store_panel(far_call(panel_product, call, given), y, row, n, panel, outputs)
        else:
            dense = dense_panel(panels, panel, inputs)
            for row in range(0, n, height):
                given = dense, 0, ready, sums, row, inputs, tile
                store_panel(far_call(panel_product, call, given), y, row, n, panel, outputs)


@inner
def store_panel(acc, y, row, n, panel, outputs):
    """Write accumulators to `y[row:, panel * 32:]` as far as rows and outputs are there."""
    at, height = panel * PANEL, len(acc) // 2
    if at + PANEL <= outputs and row + height <= n:
        simd_memory.store(acc, y, row * outputs + at, outputs, 2)
        return
    part = np.empty(height * PANEL, np.float32)
    simd_memory.store(acc, part, 0, PANEL, 2)
    width = min(PANEL, outputs - at)
    for r in range(min(height, n - row)):
        for c in range(width):
            simd.one_by_one()
            y[(row + r) * outputs + at + c] = part[r * PANEL + c]
