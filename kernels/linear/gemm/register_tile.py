"""Some rows of a tile of inputs times one column of weights, the accumulators in registers."""

from __future__ import annotations

from typing import Any

from numba.extending import overload

from specdec.kernels.cpu import simd
from specdec.kernels.cpu.jit import APART, INLINE
from specdec.kernels.linear.gemm.inner_products import code_products
from specdec.kernels.linear.gemm.load_codes import VECTORS, scales
from specdec.kernels.linear.packed_formats import COLUMN


def register_tile(
    acc: Any, panels: Any, column: int, x: Any, sums: Any, tile: Any, span: Any, ask: Any
) -> Any:
    """`acc` plus the products of some rows of a tile with a column of weights.

    tile: its first row, how far below it the rows begin, and a tuple as long as it is high, so that
    addresses are constants apart. span: first input, how many (whole groups), and those of the
    matrix. ask: which codes to prefetch meanwhile: how many inputs behind the first, and how many
    codes further with each.
    """
    raise NotImplementedError("for compiled code only")


@overload(register_tile, jit_options=APART)
def _register_tile(acc, panels, column, x, sums, tile, span, ask):
    rows = (0,) * (len(acc) // VECTORS)

    def whole(acc, panels, column, x, sums, tile, span, ask):
        simd.noinline()
        row, below, height = tile[0], tile[1], len(tile[2])
        first, size, inputs = span
        ahead, step = ask
        at = (column * inputs + first) * COLUMN
        here = row * inputs + first * height + below
        return code_products(acc, panels, at, x, here, height, size, at + ahead * COLUMN, step)

    def grouped(acc, panels, column, x, sums, tile, span, ask):
        simd.noinline()
        row, below, height = tile[0], tile[1], len(tile[2])
        first, size, inputs = span
        ahead, step = ask
        group, groups = panels.group, inputs // panels.group
        asked = (column * inputs + first + ahead) * COLUMN
        for g in range(first // group, (first + size) // group):
            at = (column * inputs + g * group) * COLUMN
            here = row * inputs + g * group * height + below
            part = simd.zeros(rows, VECTORS)
            part = code_products(part, panels, at, x, here, height, group, asked, step)
            acc = simd.row_fma(acc, part, scales(panels.scale, (column * groups + g) * COLUMN))
            asked += group * step
        return minima(acc, panels, column, sums, row + below, span)

    return grouped if hasattr(panels.instance_class, "scale") else whole


def minima(acc: Any, panels: Any, column: int, sums: Any, row: int, span: Any) -> Any:
    """`acc` plus minima times the sums of their inputs, if the format has any: see `register_tile`.

    In a loop of its own: beside codes, registers do not hold `acc`.
    """
    raise NotImplementedError("for compiled code only")


@overload(minima, jit_options=INLINE)
def _minima(acc, panels, column, sums, row, span):
    def added(acc, panels, column, sums, row, span):
        first, size, inputs = span
        groups = inputs // panels.group
        for g in range(first // panels.group, (first + size) // panels.group):
            minimum = scales(panels.minimum, (column * groups + g) * COLUMN)
            acc = simd.outer_fma(acc, minimum, sums, row * groups + g, groups)
        return acc

    if hasattr(panels.instance_class, "minimum"):
        return added
    return lambda acc, panels, column, sums, row, span: acc
