"""head_argmax on a CPU: outputs are compared where they are made, and written nowhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from specdec.kernels.cpu import simd, simd_lanes, simd_memory
from specdec.kernels.cpu.function_pointers import address_of, call_pointer
from specdec.kernels.cpu.jit import INNER, OPTIONS, inner, njit, num_threads, tile_height
from specdec.kernels.cpu.registers import TILE_HEIGHTS
from specdec.kernels.cpu.work_stealing import next_piece, num_shares, shares
from specdec.kernels.linear.gemm.entry_points import (
    calls_of,
    kinds_of,
    prepare,
    ready_like,
)
from specdec.kernels.linear.gemm.thread_shares import panel_product
from specdec.kernels.linear.head_argmax import best_of
from specdec.kernels.linear.packed_formats import PANEL, Panels
from specdec.kernels.linear.packed_weight import PanelWeight
from specdec.kernels.linear.row_ops_numba import biased
from specdec.kernels.linear.skinny_linear_numba import MANY, in_whole_tiles, skinny_linear

CHUNK = 16  # panels that a thread takes at once
NONE = np.empty(0, np.float32)


def head_argmax(x: Tensor, weight: PanelWeight, bias: Tensor | None = None) -> Tensor:
    """See `head_argmax`; for many rows panels are dequantised, as it does there."""
    num_threads()
    flat = x.reshape(-1, weight.inputs)
    n = len(flat)
    if n >= MANY:
        return best_of(skinny_linear(x, weight, bias))
    out, height = np.empty(n, np.int64), tile_height(n)
    added = NONE if bias is None else _padded(bias.detach().float())
    calls = calls_of(weight.panels, height)
    _best(
        in_whole_tiles(flat, height), weight.panels, added, n, weight.inputs, weight.outputs, out,
        height, calls, address_of_search(weight.panels, height),
    )  # fmt: skip
    return torch.from_numpy(out).view(x.shape[:-1])


def _padded(bias: Tensor) -> np.ndarray:
    """A bias with zeros up to a whole panel."""
    return torch.nn.functional.pad(bias, (0, -len(bias) % PANEL)).numpy()


@njit(**OPTIONS)
def _best(x, panels, bias, n, inputs, outputs, out, height, calls, search):
    """Fill `out[n]`: chunks of panels are searched side by side, and then compared in order.

    calls: `calls_of` the panels; search: `address_of_search`.
    """
    rows = (n + height - 1) // height * height
    prepare_at, product, _ = calls
    ready, sums = call_pointer(prepare, prepare_at, (panels, x, rows, inputs))
    chunks = ((outputs + PANEL - 1) // PANEL + CHUNK - 1) // CHUNK
    best, where = nothing_yet(chunks * rows)
    todo = shares(chunks)
    for t in prange(num_shares(todo)):
        given = todo, t, chunks, best, where, panels, ready, sums, bias, n, inputs, outputs, product
        call_pointer(_search, search, given)
    for row in range(n):
        top = best[row]
        out[row] = where[row]
        for chunk in range(1, chunks):
            at = chunk * rows + row
            if best[at] > top or (best[at] != best[at] and top == top):
                top, out[row] = best[at], where[at]
        if not top > -np.inf:
            out[row] = -1


@inner
def search_share(
    todo, thread, chunks, best, where, panels, x, sums, bias, n, inputs, outputs, product, rows
):
    """Find the best outputs of each chunk of a thread's share, in place."""
    height, count = len(rows), (outputs + PANEL - 1) // PANEL
    padded = (n + height - 1) // height * height
    while True:
        chunk = next_piece(todo, thread, chunks)
        if chunk < 0:
            return
        for panel in range(chunk * CHUNK, min(count, (chunk + 1) * CHUNK)):
            for row in range(0, n, height):
                given = panels, panel, x, sums, row, inputs, rows
                acc = biased(call_pointer(panel_product, product, given), bias, panel)
                at = chunk * padded + row
                if simd_lanes.any_above(acc, best, at, 2):
                    update_argmax(acc, min(PANEL, outputs - panel * PANEL), panel, best, where, at)


def _for_height(rows: tuple[int, ...]) -> Any:
    """`search_share` of tiles `len(rows)` high, whose type does not tell how high."""

    @njit(**INNER)
    def search(
        todo, thread, chunks, best, where, panels, x, sums, bias, n, inputs, outputs, product
    ):
        search_share(
            todo, thread, chunks, best, where, panels, x, sums, bias, n, inputs, outputs, product,
            rows,
        )  # fmt: skip

    return search


_BY_HEIGHT = {height: _for_height((0,) * height) for height in TILE_HEIGHTS}
_search = _BY_HEIGHT[1]
_known: dict[tuple[Any, ...], int] = {}


def address_of_search(panels: Panels, height: int) -> int:
    """Where the search for the best outputs of such panels is, for tiles so high."""
    kinds = (*kinds_of(panels), height)
    if kinds not in _known:
        places, some = np.empty(0, np.int64), NONE
        given = places, 0, 0, some, places, panels, ready_like(panels), some, some, 0, 0, 0, 0
        _known[kinds] = address_of(_BY_HEIGHT[height], *given)
    return _known[kinds]


@inner
def nothing_yet(count):
    """Maxima before any output, and their places: an array of -inf has its largest at 0."""
    return np.full(count, -np.inf, np.float32), np.zeros(count, np.int64)


@inner
def update_argmax(acc, width, panel, best, where, at):
    """Compare the outputs of one panel with the best so far of each row, in place."""
    height = len(acc) // 2
    part = np.empty(height * PANEL, np.float32)
    simd_memory.store(acc, part, 0, PANEL, 2)
    for r in range(height):
        top = best[at + r]
        for c in range(width):
            simd.no_unroll()
            value = part[r * PANEL + c]
            if value > top or (value != value and top == top):
                top = value
                where[at + r] = panel * PANEL + c
        best[at + r] = top
