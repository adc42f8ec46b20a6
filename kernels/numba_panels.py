"""A panel of weights times a tile of inputs, whatever the format, from Numba code.

Each function of this file stands for several, one for each storage format, chosen when a kernel is
compiled: the type of the `panels` argument says which.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload

from specdec.kernels import simd, simd_memory
from specdec.kernels.numba_far_calls import address_of
from specdec.kernels.numba_options import INNER, inner, njit
from specdec.kernels.numba_panel_codes import TWO, codes_of, scales
from specdec.kernels.numba_register_tiles import fits, products, stretch_of
from specdec.kernels.panel_formats import PANEL, Float32, Panels


def accumulate(panels: Any, panel: int, x: Any, sums: Any, row: int, inputs: int, rows: Any) -> Any:
    """Products of one panel with the tile of x that begins with `row`, `len(rows)` high.

    Returns the accumulators, `len(rows) x 2` vectors. x, sums: of `prepared` for these panels.
    """
    raise NotImplementedError("for compiled code only")


@overload(accumulate)
def _accumulate(panels, panel, x, sums, row, inputs, rows):
    if fits(len(rows)):
        return lambda panels, panel, x, sums, row, inputs, rows: products(
            panels, panel, x, sums, row, (0, inputs, inputs), rows
        )
    grouped = hasattr(panels.instance_class, "scale")
    most = stretch_of(panels)

    def by_stretches(panels, panel, x, sums, row, inputs, rows):
        stretch = min(inputs, most)
        if grouped:
            stretch = max(panels.group, stretch // panels.group * panels.group)
        acc = simd.zeros(rows, 2)
        for first in range(0, inputs, stretch):
            span = first, min(stretch, inputs - first), inputs
            acc = simd.add(acc, products(panels, panel, x, sums, row, span, rows))
        return acc

    return by_stretches


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
    for j in range(inputs):
        simd_memory.store(weights_of(panels, panel, j, inputs), out, j * PANEL, 0, 2)
    return Float32(out)


def weights_of(panels: Any, panel: int, j: int, inputs: int) -> Any:
    """The weights of input `j` in one panel, widened and scaled, as two vectors."""
    raise NotImplementedError("for compiled code only")


@overload(weights_of, inline="always")
def _weights_of(panels, panel, j, inputs):
    kind = panels.instance_class
    if not hasattr(kind, "scale"):
        return lambda panels, panel, j, inputs: codes_of(panels, panel * inputs + j, 0, TWO)
    if not hasattr(kind, "minimum"):

        def scaled(panels, panel, j, inputs):
            place = (panel * inputs + j) // panels.group * PANEL
            codes = codes_of(panels, panel * inputs + j, 0, TWO)
            return simd.multiply(codes, scales(panels.scale, place, TWO))

        return scaled

    def affine(panels, panel, j, inputs):
        place = (panel * inputs + j) // panels.group * PANEL
        codes = codes_of(panels, panel * inputs + j, 0, TWO)
        return simd.fma(codes, scales(panels.scale, place, TWO), scales(panels.minimum, place, TWO))

    return affine
