"""A panel times a tile of inputs, cut so that accumulators stay in registers.

A tile of inputs is `x[inputs, height]`. With 32 registers of 16 lanes its products fit whole: 8
rows of 2 vectors. With 16 registers of 8 lanes they are made 4 rows and one vector at a time, a
column; 8 rows take turns over a stretch of it that the first cache keeps meanwhile, and prefetch
half of the next one each.
"""

from __future__ import annotations

from typing import Any

from numba.extending import overload

from specdec.kernels.cpu import simd
from specdec.kernels.cpu.jit import INLINE, inner
from specdec.kernels.cpu.registers import REGISTER_TILE
from specdec.kernels.linear.gemm.load_codes import VECTORS
from specdec.kernels.linear.gemm.register_tile import register_tile
from specdec.kernels.linear.packed_formats import COLUMN, PANEL, WORD, Int4Affine, Stored

STRETCH = 12288  # bytes of codes that stay in the first cache while all rows pass over them
AHEAD = 1024  # bytes from the codes that are read to those that are prefetched, otherwise


def inputs_in(panels: Any, size: int) -> int:
    """How many inputs of a column stand in `size` bytes, for panels of this Numba type."""
    bits = panels.types[0].dtype.bitwidth // (WORD if panels.instance_class is Int4Affine else 1)
    return 8 * size // (bits * COLUMN)


def accumulate(panels: Any, panel: int, x: Any, sums: Any, row: int, inputs: int, rows: Any) -> Any:
    """Products of one panel with the tile of x that begins with `row`, `len(rows)` high.

    Returns the accumulators, `len(rows) x 2` vectors. x, sums: of `prepared` for these panels.
    """
    raise NotImplementedError("for compiled code only")


@overload(accumulate, jit_options=INLINE)
def _accumulate(panels, panel, x, sums, row, inputs, rows):
    if panels.instance_class is Stored:  # the type alone: a format's is called by its address
        return lambda panels, panel, x, sums, row, inputs, rows: simd.zeros(rows, 2)
    most, height = REGISTER_TILE[0], len(rows)
    some = (0,) * min(most, height)
    grouped = hasattr(panels.instance_class, "scale")
    ahead, longest = inputs_in(panels, AHEAD), inputs_in(panels, STRETCH)

    def whole(panels, column, x, sums, row, inputs, rows):
        acc, tile, span = simd.zeros(some, VECTORS), (row, 0, rows), (0, inputs, inputs)
        return register_tile(acc, panels, column, x, sums, tile, span, (ahead, COLUMN))

    def by_stretches(panels, column, x, sums, row, inputs, rows):
        unit = panels.group if grouped else 1
        parts = (inputs + longest - 1) // longest
        stretch = (inputs // unit + parts - 1) // parts * unit
        top, bottom = simd.zeros(some, VECTORS), simd.zeros(some, VECTORS)
        for first in range(0, inputs, stretch):
            size = min(stretch, inputs - first)
            span, tile, half = (first, size, inputs), (row, 0, rows), COLUMN // 2
            top = register_tile(top, panels, column, x, sums, tile, span, (size, half))
            ask, tile = (size + size // 2, half), (row, most, rows)
            bottom = register_tile(bottom, panels, column, x, sums, tile, span, ask)
        return top + bottom

    column = inner(whole if height <= most else by_stretches)
    if COLUMN == PANEL:
        return lambda panels, panel, x, sums, row, inputs, rows: column(
            panels, panel, x, sums, row, inputs, rows
        )

    def two_columns(panels, panel, x, sums, row, inputs, rows):
        left = column(panels, 2 * panel, x, sums, row, inputs, rows)
        right = column(panels, 2 * panel + 1, x, sums, row, inputs, rows)
        return simd.hstack(left, right, rows)

    return two_columns
