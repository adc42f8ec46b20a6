"""A panel, or a stretch of it, times a tile of inputs, cut so that accumulators stay in registers.

A tile of inputs is `x[inputs, height]`. With 32 registers of 16 lanes its products fit whole: 8
rows of 2 vectors. With 16 registers of 8 lanes they are made 4 rows and one vector at a time, over
a stretch of the panel that the first cache keeps meanwhile.
"""

from __future__ import annotations

from typing import Any

from numba.extending import overload

from specdec.kernels import simd, simd_memory, simd_words
from specdec.kernels.numba_options import APART, HAS_32_WIDE_REGISTERS, INLINE, REGISTER_TILE
from specdec.kernels.numba_panel_codes import ONE, TWO, codes_of, minima, scales
from specdec.kernels.panel_formats import PANEL, WORD, Int4Affine
from specdec.kernels.simd_type import LANES

STRETCH = 8192  # bytes of codes that stay in the first cache while all tiles pass over them
# Accumulators of so many vectors fit twice, which hides the latency of one product by another.
PAIRED = 8 if HAS_32_WIDE_REGISTERS else 2


def fits(height: int) -> bool:
    """Whether the accumulators of a whole tile stay in registers."""
    rows, vectors = REGISTER_TILE
    return height == 1 or (height <= rows and vectors == 2)


def stretch_of(panels: Any) -> int:
    """How many inputs make a stretch of panels of this Numba type."""
    bits = panels.types[0].dtype.bitwidth // (WORD if panels.instance_class is Int4Affine else 1)
    return 8 * STRETCH // (bits * PANEL)


def products(panels: Any, panel: int, x: Any, sums: Any, row: int, span: Any, rows: Any) -> Any:
    """Products of some of a panel's inputs with the tile of x that begins with `row`.

    span: first input, how many (whole groups), and those of the matrix. The tile is `len(rows)`
    high; x, sums: of `prepared` for these panels. Returns `len(rows) x 2` accumulators.
    """
    raise NotImplementedError("for compiled code only")


@overload(products, jit_options=INLINE)
def _products(panels, panel, x, sums, row, span, rows):
    most, height = REGISTER_TILE[0], len(rows)
    if fits(height):
        return lambda panels, panel, x, sums, row, span, rows: register_tile(
            panels, panel, 0, TWO, x, sums, (row, 0, height), span, rows
        )
    some = (0,) * most

    def by_vector(panels, panel, x, sums, row, span, rows):
        tile = row, 0, height
        low = register_tile(panels, panel, 0, ONE, x, sums, tile, span, some)
        high = register_tile(panels, panel, LANES, ONE, x, sums, tile, span, some)
        return simd.beside(low, high, some)

    def by_vector_and_half(panels, panel, x, sums, row, span, rows):
        tile, rest = (row, 0, height), (row, most, height)
        low = register_tile(panels, panel, 0, ONE, x, sums, tile, span, some)
        high = register_tile(panels, panel, LANES, ONE, x, sums, tile, span, some)
        low_rest = register_tile(panels, panel, 0, ONE, x, sums, rest, span, some)
        high_rest = register_tile(panels, panel, LANES, ONE, x, sums, rest, span, some)
        return simd.beside(low, high, some) + simd.beside(low_rest, high_rest, some)

    return by_vector if height == most else by_vector_and_half


def register_tile(
    panels: Any, panel: int, lane: int, width: Any, x: Any, sums: Any, tile: Any, span: Any,
    rows: Any,
) -> Any:  # fmt: skip
    """`products` of `len(rows)` rows of a tile with `len(width)` vectors of a panel from `lane` on.

    tile: its first row, how far below it those rows begin, and its height.
    """
    raise NotImplementedError("for compiled code only")


@overload(register_tile, jit_options=APART)
def _register_tile(panels, panel, lane, width, x, sums, tile, span, rows):
    def whole(panels, panel, lane, width, x, sums, tile, span, rows):
        simd.kept_apart()
        row, below, height = tile
        first, size, inputs = span
        at, here = panel * inputs + first, row * inputs + first * height + below
        return code_products(panels, at, lane, width, x, here, height, size, rows)

    vectors = len(width)

    def grouped(panels, panel, lane, width, x, sums, tile, span, rows):
        simd.kept_apart()
        row, below, height = tile
        first, size, inputs = span
        group = panels.group
        groups = inputs // group
        acc = simd.zeros(rows, vectors)
        for g in range(first // group, (first + size) // group):
            at, here = panel * inputs + g * group, row * inputs + g * group * height + below
            part = code_products(panels, at, lane, width, x, here, height, group, rows)
            place = (panel * groups + g) * PANEL + lane
            acc = simd.row_fma(acc, part, scales(panels.scale, place, width))
            acc = minima(acc, panels, place, width, sums, (row + below) * groups + g, groups)
        return acc

    return grouped if hasattr(panels.instance_class, "scale") else whole


def code_products(
    panels: Any, at: int, lane: int, width: Any, x: Any, here: int, height: int, size: int,
    rows: Any,
) -> Any:  # fmt: skip
    """`register_tile` of codes alone: those of `size` inputs, `at` inputs into the matrix, with
    `x[here + j * height + r]` for input j and row r."""
    raise NotImplementedError("for compiled code only")


@overload(code_products, jit_options=INLINE)
def _code_products(panels, at, lane, width, x, here, height, size, rows):
    vectors = len(width)
    paired = len(rows) * vectors <= PAIRED
    ahead = stretch_of(panels)  # asked for where half a panel is read at a time
    if panels.instance_class is Int4Affine:

        def words_paired(panels, at, lane, width, x, here, height, size, rows):
            even, odd = simd.zeros(rows, vectors), simd.zeros(rows, vectors)
            for j in range(0, size, WORD):
                words = simd_words.load_words(panels.codes, (at + j) // WORD * PANEL + lane, width)
                even = simd_words.word_fma(even, words, x, here + j * height, height, 0, 2)
                odd = simd_words.word_fma(odd, words, x, here + j * height, height, 1, 2)
            return simd.add(even, odd)

        def words_single(panels, at, lane, width, x, here, height, size, rows):
            acc = simd.zeros(rows, vectors)
            for j in range(0, size, WORD):
                if vectors == 1:
                    simd_memory.prefetch(panels.codes, (at + j + ahead) // WORD * PANEL + lane)
                words = simd_words.load_words(panels.codes, (at + j) // WORD * PANEL + lane, width)
                acc = simd_words.word_fma(acc, words, x, here + j * height, height, 0, 1)
            return acc

        return words_paired if paired else words_single

    def codes_paired(panels, at, lane, width, x, here, height, size, rows):
        even, odd = simd.zeros(rows, vectors), simd.zeros(rows, vectors)
        for j in range(0, size - 1, 2):
            codes = codes_of(panels, at + j, lane, width)
            even = simd.outer_fma(even, codes, x, here + j * height, 1)
            codes = codes_of(panels, at + j + 1, lane, width)
            odd = simd.outer_fma(odd, codes, x, here + (j + 1) * height, 1)
        if size & 1:  # a whole row may be of any length
            codes = codes_of(panels, at + size - 1, lane, width)
            even = simd.outer_fma(even, codes, x, here + (size - 1) * height, 1)
        return simd.add(even, odd)

    def codes_single(panels, at, lane, width, x, here, height, size, rows):
        acc = simd.zeros(rows, vectors)
        for j in range(size):
            if vectors == 1:
                simd_memory.prefetch(panels[0], (at + j + ahead) * PANEL + lane)
            codes = codes_of(panels, at + j, lane, width)
            acc = simd.outer_fma(acc, codes, x, here + j * height, 1)
        return acc

    return codes_paired if paired else codes_single
