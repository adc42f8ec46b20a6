"""What a matrix product in panels needs of its input once, before any panel is read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload

from specdec.kernels.cpu import simd, simd_gather, simd_lanes, simd_memory, simd_nibbles
from specdec.kernels.cpu.jit import inner
from specdec.kernels.cpu.simd_types import LANES
from specdec.kernels.linear.packed_formats import WORD, Int4Affine, Stored

_UNPLACE = np.resize(1 / np.array(simd_nibbles.PLACES, np.float32), LANES * LANES)
ONES = np.ones(LANES * LANES, np.float32)


def prepared(panels: Any, x: Any, rows: int, inputs: int, tile: Any) -> Any:
    """`x[rows, inputs]` as `accumulate` takes it, and its sums over the groups.

    Tiles `[rows / height, inputs, height]` (height: `len(tile)`); for 4 bits each input is divided
    by the place of its codes in their words. Sums are empty where a format has no minima.
    """
    raise NotImplementedError("for compiled code only")


@overload(prepared)
def _prepared(panels, x, rows, inputs, tile):
    kind = panels.instance_class
    if kind is Stored:  # the type alone: what a format needs is called by its address
        return lambda panels, x, rows, inputs, tile: (
            np.empty(0, np.int32),
            np.empty(0, np.float32),
        )
    factors = _UNPLACE if kind is Int4Affine else ONES
    as_it_is = len(tile) == 1 and kind is not Int4Affine  # a row is a tile

    if not hasattr(kind, "minimum"):

        def without_sums(panels, x, rows, inputs, tile):
            ready = x if as_it_is else in_tiles(x, rows, inputs, tile, factors)
            return ready, np.empty(0, np.float32)

        return without_sums

    def with_sums(panels, x, rows, inputs, tile):
        ready = x if as_it_is else in_tiles(x, rows, inputs, tile, factors)
        return ready, group_sums(x, rows * inputs, panels.group)

    return with_sums


@inner
def in_tiles(x, rows, inputs, tile, factors):
    """See `prepared`; factors (of the inputs, over and over) as long as a square of lanes.

    By squares of lanes, several stretches of columns side by side.
    """
    height = len(tile)
    stretch = LANES * LANES // height
    out = np.empty(rows * inputs, np.float32)
    where = np.empty(LANES, np.int64)
    for i in range(LANES):
        simd.no_unroll()
        where[i] = i // height * LANES + i % height * inputs
    for row in range(0, rows, height):
        at = row * inputs
        whole = inputs // stretch * stretch
        for j in range(0, whole, stretch):
            square = simd_gather.load_rows(x, where, 0, at + j)
            square = simd.multiply(square, simd_memory.load_like(square, factors))
            if height > 1:
                square = simd_lanes.transposed(square)
            simd_memory.store_parts(square, out, at + j * height, tile)
        for j in range(whole, inputs):
            for r in range(height):
                simd.no_unroll()
                out[at + j * height + r] = x[at + r * inputs + j] * factors[j % WORD]
    return out


@inner
def group_sums(x, size, group):
    """Sums of each `group` numbers of `x[size]`."""
    out = np.empty(size // group, np.float32)
    whole = group // LANES * LANES
    for i in range(len(out)):
        at = i * group
        total = np.float32(0)
        if whole:
            vector = simd_memory.load(x, at, 1)
            for j in range(LANES, whole, LANES):
                vector = simd.add(vector, simd_memory.load(x, at + j, 1))
            total = simd_lanes.sum_lanes(vector)
        for j in range(whole, group):
            simd.no_unroll()
            total += x[at + j]
        out[i] = total
    return out
