"""A panel of weights times a tile of inputs, by its address, and a panel in float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from specdec.kernels import simd_memory
from specdec.kernels.numba_far_calls import address_of
from specdec.kernels.numba_options import INNER, inner, njit
from specdec.kernels.numba_panel_codes import VECTORS, weights_of
from specdec.kernels.numba_panel_tiles import accumulate
from specdec.kernels.panel_formats import COLUMN, PANEL, Float32, Panels


@njit(**INNER)
def panel_product(panels, panel, x, sums, row, inputs, rows):
    """`accumulate` by its address, `product_at`: all kernels share the code of a storage format."""
    return accumulate(panels, panel, x, sums, row, inputs, rows)


def product_at(panels: Panels, rows: tuple[int, ...]) -> int:
    """The address of `panel_product` for panels of this format and tiles `len(rows)` high."""
    kinds = (type(panels), *(x.dtype for x in panels if isinstance(x, np.ndarray)), len(rows))
    if kinds not in _known:
        _known[kinds] = address_of(panel_product, panels, 0, _SOME, _SOME, 0, 0, rows)
    return _known[kinds]


_SOME = np.empty(0, np.float32)
_known: dict[tuple[Any, ...], int] = {}


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
