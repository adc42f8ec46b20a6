"""The products of attention on a CPU: tiles of packed queries by a block of keys and values.

Keys are transposed as they are read, so that a lane is a key and scores need no sums across lanes.
While a block is multiplied, the next one is prefetched: its values with the scores, its keys with
the outputs, a few lines after every few columns and in the order in which they lie, which is also
what the machine's own prefetchers go by. Tiles take turns, each with a share of the keys.
"""

from __future__ import annotations

from specdec.kernels.cpu import simd, simd_gather, simd_memory
from specdec.kernels.cpu.jit import inner
from specdec.kernels.cpu.registers import HAS_32_WIDE_REGISTERS
from specdec.kernels.cpu.simd_types import LANES

VECTORS = 4 if HAS_32_WIDE_REGISTERS else 1
ACROSS = (0,) * VECTORS
TILE = (0,) * 4  # query rows whose accumulators are in registers, of `VECTORS` each
BLOCK = VECTORS * LANES  # keys between two updates of the running maximum
ONE = (0,)
STEP = 4  # columns of a product between two prefetches
LINE = 16  # numbers of a cache line
NEVER = 31  # the turn of a tile that prefetches nothing


@inner
def pace_of(dim):
    """How many keys LINE cache lines are, in 65536ths."""
    return (LINE * LINE << 16) // dim


@inner
def turn_of(tile, rows):
    """Each 2**turn-th of a block is prefetched with a tile of `rows` queries; or NEVER."""
    turn = 0 if rows <= 4 else 1 if rows <= 12 else 2
    return turn if tile < 1 << turn else NEVER


@inner
def transpose_keys(keys, here, size, dim, columns):
    """Write a block of keys to `columns[dim, BLOCK]`."""
    for key in range(0, size, LANES):
        for d in range(0, dim, STEP):
            some = simd_gather.load_columns(keys, here, key, d)
            simd_memory.store(some, columns, d * BLOCK + key, BLOCK, 1)


@inner
def score(columns, packed, r, dim, scores, values, ahead, turn, pace):
    """Products of the tile of queries from r on with a block of transposed keys.

    ahead: where the keys begin whose values are prefetched, those of this tile's share first.
    """
    acc = simd.zeros(TILE, VECTORS)
    count = STEP * VECTORS >> turn
    line = 0
    for d in range(0, dim, STEP):
        if d % LINE == 0:
            line = ahead[d // LINE * VECTORS * pace >> 16 + turn]
        prefetch_lines(values, line, count)
        line += count * LINE
        some = simd_memory.load_tile(columns, d * BLOCK, BLOCK, TILE, ACROSS)
        acc = simd.columns_fma(acc, some, TILE, packed, r * dim + d, dim)
    simd_memory.store(acc, scores, r * BLOCK, BLOCK, VECTORS)


@inner
def add_values(values, here, size, scores, r, dim, o, keys, ahead, turn, pace, width):
    """Add values by their weights to the tile of outputs from r on; `width` vectors of it stay in
    registers together. Prefetches keys as `score` does values; weights behind `size` are 0."""
    count = STEP * len(width) >> turn
    lines = 0  # of the share, in LINEs
    line = 0
    for d in range(0, dim, len(width) * LANES):
        acc = simd_memory.load_tile(o, r * dim + d, dim, TILE, width)
        for c in range(0, size, STEP):
            if c % LINE == 0:
                line = ahead[lines * pace >> 16 + turn]
                lines += len(width)
            prefetch_lines(keys, line, count)
            line += count * LINE
            some = simd_gather.load_tile(values, here, c, d, TILE, width)
            acc = simd.columns_fma(acc, some, TILE, scores, r * BLOCK + c, BLOCK)
        simd_memory.store(acc, o, r * dim + d, dim, len(width))


@inner
def prefetch_block(keys, values, where, size, dim):
    """Prefetch a first block, which no block before it has prefetched."""
    for array in (keys, values):
        for c in range(size):
            prefetch_lines(array, where[c], dim // LINE)


@inner
def prefetch_lines(array, at, count):
    """Prefetch `count` cache lines from `array[at]` on."""
    for i in range(count):
        simd.no_unroll()
        simd_memory.prefetch(array, at + i * LINE)
