"""head_argmax on a CPU: outputs are compared where they are made, and written nowhere."""

from __future__ import annotations

import numpy as np
import torch
from numba import prange
from torch import Tensor

from specdec.kernels import simd, simd_lanes, simd_memory
from specdec.kernels.numba_far_calls import far_call
from specdec.kernels.numba_options import OPTIONS, inner, njit, num_threads, tile
from specdec.kernels.numba_panel_inputs import prepared
from specdec.kernels.numba_panels import panel_product, product_at
from specdec.kernels.numba_row_ops import biased
from specdec.kernels.numba_skinny_linear import MANY, rows_of, skinny_linear
from specdec.kernels.panel_formats import PANEL
from specdec.kernels.panel_weight import PanelWeight

CHUNK = 16  # panels that a thread takes at once
NONE = np.empty(0, np.float32)


def head_argmax(x: Tensor, weight: PanelWeight, bias: Tensor | None = None) -> Tensor:
    """See `specdec.kernels.head_argmax`; for many rows panels are dequantised, as it does there."""
    num_threads()
    flat = x.reshape(-1, weight.inputs)
    n = len(flat)
    if n >= MANY:
        return skinny_linear(x, weight, bias).argmax(-1)
    out = np.empty(n, np.int64)
    rows = rows_of(flat, n).reshape(-1)
    added = NONE if bias is None else _padded(bias.detach().float())
    _best(
        rows, weight.panels, added, n, weight.inputs, weight.outputs, out, tile(n),
        product_at(weight.panels, tile(n)),
    )  # fmt: skip
    return torch.from_numpy(out).view(x.shape[:-1])


def _padded(bias: Tensor) -> np.ndarray:
    """A bias with zeros up to a whole panel."""
    return torch.nn.functional.pad(bias, (0, -len(bias) % PANEL)).numpy()


@njit(**OPTIONS)
def _best(x, panels, bias, n, inputs, outputs, out, tile, call):
    """Fill `out[n]`: chunks of panels are searched side by side, and then compared in order.

    call: `product_at` of the panels.
    """
    height = len(tile)
    rows = (n + height - 1) // height * height
    ready, sums = prepared(panels, x, rows, inputs, tile)
    count = (outputs + PANEL - 1) // PANEL
    chunks = (count + CHUNK - 1) // CHUNK
    best, where = nothing_yet(chunks * rows)
    for chunk in prange(chunks):
        for panel in range(chunk * CHUNK, min(count, (chunk + 1) * CHUNK)):
            for row in range(0, n, height):
                given = panels, panel, ready, sums, row, inputs, tile
                acc = biased(far_call(panel_product, call, given), bias, panel)
                at = chunk * rows + row
                if simd_lanes.any_above(acc, best, at, 2):
                    take_up(acc, min(PANEL, outputs - panel * PANEL), panel, best, where, at)
    for row in range(n):
        top = best[row]
        out[row] = where[row]
        for chunk in range(1, chunks):
            at = chunk * rows + row
            if best[at] > top or (best[at] != best[at] and top == top):
                top, out[row] = best[at], where[at]


@inner
def nothing_yet(count):
    """Maxima before any output, and their places: an array of -inf has its largest at 0."""
    return np.full(count, -np.inf, np.float32), np.zeros(count, np.int64)


@inner
def take_up(acc, width, panel, best, where, at):
    """Compare the outputs of one panel with the best so far of each row, in place."""
    height = len(acc) // 2
    part = np.empty(height * PANEL, np.float32)
    simd_memory.store(acc, part, 0, PANEL, 2)
    for r in range(height):
        top = best[at + r]
        for c in range(width):
            simd.one_by_one()
            value = part[r * PANEL + c]
            if value > top or (value != value and top == top):
                top = value
                where[at + r] = panel * PANEL + c
        best[at + r] = top
