"""Products of one vector with sixteen others that stand anywhere in memory, from Numba code."""

from __future__ import annotations

from specdec.kernels.cpu import simd, simd_gather, simd_lanes, simd_memory
from specdec.kernels.cpu.jit import inner
from specdec.kernels.cpu.simd_types import LANES

FOUR = (0,) * 4


@inner
def row_dots(x, at, rows, where, first, size):
    """A vector (a tuple of one) of the products of `x[at:]` with sixteen rows over `size` numbers.

    Row i begins at `rows[where[first + i]]`; size is whole vectors. Lanes are summed for four rows
    at a time, so that sixteen registers suffice.
    """
    a = four_dots(x, at, rows, where, first, size)
    c = four_dots(x, at, rows, where, first + 2, size)
    ac = simd_lanes.pair_sums(a + c, 2)
    b = four_dots(x, at, rows, where, first + 1, size)
    d = four_dots(x, at, rows, where, first + 3, size)
    return simd_lanes.pair_sums(ac + simd_lanes.pair_sums(b + d, 2), 1)


@inner
def four_dots(x, at, rows, where, first, size):
    """Products with rows 0, 4, 8 and 12 from `first` on, each summed over every fourth lane."""
    acc = simd.zeros(FOUR, 1)
    for d in range(0, size, LANES):
        few = simd_gather.load_four_rows(rows, where, first, d)
        acc = simd.row_fma(acc, few, simd_memory.load(x, at + d, 1))
    return simd_lanes.pair_sums(simd_lanes.pair_sums(acc, 8), 4)
