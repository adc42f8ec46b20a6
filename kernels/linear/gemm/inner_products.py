"""Codes of some inputs times the rows of a tile: the innermost loops of a matrix product.

Where accumulators are few they are made two or four times over, each for every second or fourth
input, so that a product need not wait for the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba.extending import overload

from specdec.kernels.cpu import simd, simd_memory, simd_nibbles
from specdec.kernels.cpu.jit import INLINE
from specdec.kernels.cpu.registers import HAS_32_WIDE_REGISTERS
from specdec.kernels.linear.gemm.load_codes import VECTORS, codes_of
from specdec.kernels.linear.packed_formats import COLUMN, WORD, Int4Affine

PAIRED = 8 if HAS_32_WIDE_REGISTERS else 2  # so many accumulators are in registers twice
# Not for a single row of codes that stand alone, which the hardware's own prefetch keeps up with.
PREFETCHES = not HAS_32_WIDE_REGISTERS


def code_products(
    acc: Any, panels: Any, at: int, x: Any, here: int, height: int, size: int, asked: int, step: int
) -> Any:
    """`acc` plus the products of the codes of `size` inputs of a column with some rows of a tile.

    Input j has its code at `at + j * COLUMN` and row r of it at `x[here + j * height + r]`; when it
    is its turn, the code at `asked + j * step` may be prefetched.
    """
    raise NotImplementedError("for compiled code only")


@overload(code_products, jit_options=INLINE)
def _code_products(acc, panels, at, x, here, height, size, asked, step):
    made = of_words if panels.instance_class is Int4Affine else of_inputs
    return made(len(acc), (0,) * (len(acc) // VECTORS))


def of_words(count: int, rows: tuple[int, ...]) -> Callable[..., Any]:
    """`code_products` with `count` accumulators of codes in words: several to a word."""

    def by_four(acc, panels, at, x, here, height, size, asked, step):
        b = c = d = simd.zeros(rows, VECTORS)
        for j in range(0, size, WORD):
            words, k = next_words(panels, at, j, asked, step), here + j * height
            acc = simd_nibbles.word_fma(acc, words, x, k, height, 0, 4)
            b = simd_nibbles.word_fma(b, words, x, k, height, 1, 4)
            c = simd_nibbles.word_fma(c, words, x, k, height, 2, 4)
            d = simd_nibbles.word_fma(d, words, x, k, height, 3, 4)
        return simd.add(simd.add(acc, b), simd.add(c, d))

    def paired(acc, panels, at, x, here, height, size, asked, step):
        odd = simd.zeros(rows, VECTORS)
        for j in range(0, size, WORD):
            words, k = next_words(panels, at, j, asked, step), here + j * height
            acc = simd_nibbles.word_fma(acc, words, x, k, height, 0, 2)
            odd = simd_nibbles.word_fma(odd, words, x, k, height, 1, 2)
        return simd.add(acc, odd)

    def single(acc, panels, at, x, here, height, size, asked, step):
        for j in range(0, size, WORD):
            words = next_words(panels, at, j, asked, step)
            acc = simd_nibbles.word_fma(acc, words, x, here + j * height, height, 0, 1)
        return acc

    return by_four if count == 1 else paired if count <= PAIRED else single


@numba.njit(**INLINE)
def next_words(panels, at, j, asked, step):
    """The words from input j on."""
    if PREFETCHES:
        simd_memory.prefetch(panels.codes, (asked + j * step) // WORD)
    return codes_of(panels, (at + j * COLUMN) // WORD)


def of_inputs(count: int, rows: tuple[int, ...]) -> Callable[..., Any]:
    """`code_products` with `count` accumulators of codes that stand alone: any number of inputs."""

    def by_four(acc, panels, at, x, here, height, size, asked, step):
        b = c = d = simd.zeros(rows, VECTORS)
        for j in range(0, size - 3, 4):
            acc = with_input(acc, panels, at, x, here, height, j)
            b = with_input(b, panels, at, x, here, height, j + 1)
            c = with_input(c, panels, at, x, here, height, j + 2)
            d = with_input(d, panels, at, x, here, height, j + 3)
        for j in range(size // 4 * 4, size):
            simd.no_unroll()
            acc = with_input(acc, panels, at, x, here, height, j)
        return simd.add(simd.add(acc, b), simd.add(c, d))

    def paired(acc, panels, at, x, here, height, size, asked, step):
        odd = simd.zeros(rows, VECTORS)
        for j in range(0, size - 1, 2):
            acc = with_input(acc, panels, at, x, here, height, j)
            odd = with_input(odd, panels, at, x, here, height, j + 1)
        if size & 1:
            acc = with_input(acc, panels, at, x, here, height, size - 1)
        return simd.add(acc, odd)

    def single(acc, panels, at, x, here, height, size, asked, step):
        for j in range(size):
            if PREFETCHES:
                simd_memory.prefetch(panels[0], asked + j * step)
            acc = with_input(acc, panels, at, x, here, height, j)
        return acc

    return by_four if count == 1 else paired if count <= PAIRED else single


@numba.njit(**INLINE)
def with_input(acc, panels, at, x, here, height, j):
    """`acc` plus the products with input j."""
    return simd.outer_fma(acc, codes_of(panels, at + j * COLUMN), x, here + j * height, 1)
