"""What a thread does with its share of the panels of a matrix: multiply them with rows of inputs.

A product of one panel is called by its address, so that all kernels share the code of a storage
format; `product` is that address, of `panel_product` for tiles `len(rows)` high.
"""

from __future__ import annotations

import numpy as np

from specdec.kernels.cpu import simd, simd_memory
from specdec.kernels.cpu.function_pointers import call_pointer
from specdec.kernels.cpu.jit import INNER, inner, njit
from specdec.kernels.cpu.work_stealing import next_piece
from specdec.kernels.linear.gemm.load_codes import VECTORS, weights_of
from specdec.kernels.linear.gemm.tiles import accumulate
from specdec.kernels.linear.packed_formats import COLUMN, PANEL, Float32
from specdec.kernels.linear.row_ops_numba import activated, biased


@njit(**INNER)
def panel_product(panels, panel, x, sums, row, inputs, rows):
    """See `accumulate`."""
    return accumulate(panels, panel, x, sums, row, inputs, rows)


@inner
def product_share(todo, thread, count, y, panels, x, sums, bias, n, inputs, outputs, product, rows):
    """Write a thread's share of `count` panels times x, plus their bias if any, to `y[n, outputs]`.

    todo: of `shares`; x, sums: of `prepared`.
    """
    while True:
        panel = next_piece(todo, thread, count)
        if panel < 0:
            return
        for row in range(0, n, len(rows)):
            given = panels, panel, x, sums, row, inputs, rows
            acc = biased(call_pointer(panel_product, product, given), bias, panel)
            store_panel(acc, y, row, n, panel, outputs)


@inner
def gated_share(
    todo, thread, count, y, panels, x, sums, biases, n, inputs, outputs, activation, products, rows
):
    """The same of `activation(gate x) * up x`; panels, x, sums, biases and products are pairs."""
    while True:
        panel = next_piece(todo, thread, count)
        if panel < 0:
            return
        for row in range(0, n, len(rows)):
            given = panels[0], panel, x[0], sums[0], row, inputs, rows
            gate = biased(call_pointer(panel_product, products[0], given), biases[0], panel)
            given_up = panels[1], panel, x[1], sums[1], row, inputs, rows
            up = biased(call_pointer(panel_product, products[1], given_up), biases[1], panel)
            acc = simd.multiply(activated(gate, activation), up)
            store_panel(acc, y, row, n, panel, outputs)


@inner
def dense_share(todo, thread, count, y, panels, x, bias, n, inputs, outputs, product, rows):
    """As `product_share`; product: of Float32."""
    while True:
        panel = next_piece(todo, thread, count)
        if panel < 0:
            return
        dense = dense_panel(panels, panel, inputs)
        for row in range(0, n, len(rows)):
            given = dense, 0, x, x[:0], row, inputs, rows
            acc = biased(call_pointer(panel_product, product, given), bias, panel)
            store_panel(acc, y, row, n, panel, outputs)


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
            simd.no_unroll()
            y[(row + r) * outputs + at + c] = part[r * PANEL + c]


@inner
def dense_panel(panels, panel, inputs):
    """One panel as Float32: worth its cost where many rows will use it."""
    out = np.empty(inputs * PANEL, np.float32)
    for c in range(PANEL // COLUMN):
        column = panel * (PANEL // COLUMN) + c
        for j in range(inputs):
            weights = weights_of(panels, column, j, inputs)
            simd_memory.store(weights, out, (c * inputs + j) * COLUMN, 0, VECTORS)
    return Float32(out)
