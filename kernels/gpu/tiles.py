"""How a kernel cuts its work: the tile of one program, and the splits of the keys among programs.

Everything here is decided on the host from shapes alone, never from what a tensor holds, so that a
launch needs no synchronisation and a captured CUDA graph stays valid while texts grow.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

MIN_SPLIT = 256  # keys; below this a split costs more to merge than it saves
MAX_SPLITS = 128


@dataclass(frozen=True)
class Tile:
    """One program's shape: `rows` packed queries against `keys` keys at a time."""

    rows: int
    keys: int
    warps: int
    stages: int


# (bytes of an element, padded head size) -> {most rows: (keys, warps, stages)}, found by compiling:
# none spills registers on sm_80, sm_89 or sm_90 (but for 16 bytes in float32 at 256), all fit into
# the 99 KiB of shared memory that the smallest of them has. Not tuned by time yet.
_TILES = {
    (2, 64): {16: (64, 4, 3), 32: (64, 4, 3), 64: (64, 4, 3), 128: (64, 8, 3)},
    (2, 128): {16: (64, 4, 3), 32: (32, 4, 3), 64: (32, 4, 3), 128: (32, 8, 3)},
    (2, 256): {16: (32, 4, 3), 32: (32, 4, 2), 64: (32, 8, 2)},
    (2, 512): {16: (32, 8, 2), 32: (16, 8, 2)},
    (4, 64): {16: (32, 4, 2), 32: (32, 4, 2)},
    (4, 128): {16: (32, 4, 2), 32: (32, 8, 2)},
    (4, 256): {16: (16, 8, 2)},
}


def power_of_two(n: int) -> int:
    """The least power of two that is at least n, and at least 16: what a dot takes."""
    return max(16, 1 << (n - 1).bit_length())


def tile(rows: int, dim: int, value_dim: int, itemsize: int) -> Tile:
    """The tile for `rows` queries that share their keys; more rows than fit take several tiles.

    Raises ValueError for a head size that no kernel is made for.
    """
    width = max(64, power_of_two(max(dim, value_dim)))
    shapes = _TILES.get((itemsize, width))
    if shapes is None:
        raise ValueError(f"no attention kernel for heads of {dim} in {8 * itemsize}-bit floats")
    block = min(power_of_two(rows), max(shapes))
    return Tile(block, *shapes[block])


def split_count(
    programs: int, keys: int, rows: int, dim: int, value_dim: int, itemsize: int, processors: int
) -> int:
    """Into how many parts to cut `keys` keys, read by `programs` programs of `rows` rows each.

    Enough to give every processor a program, and a second one if the partial results, written and
    read in float32, stay under an eighth of the bytes of the keys and values; but no part under
    MIN_SPLIT keys.
    """
    once, twice = processors // programs, 2 * processors // programs
    by_traffic = keys * (dim + value_dim) * itemsize // (8 * rows * (value_dim + 1) * 8)
    wanted = max(once, min(twice, by_traffic))
    return max(1, min(wanted, keys // MIN_SPLIT, MAX_SPLITS))


@functools.cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; those of an H100 where there is none (interpreter, compiler)."""
    if device.type != "cuda":
        return 132
    return torch.cuda.get_device_properties(device).multi_processor_count
