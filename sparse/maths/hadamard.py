"""hadamard: the orthonormal Walsh-Hadamard transform spreads what stands out over a vector."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def hadamard(x: Tensor, size: int) -> Tensor:
    """Each run of `size` (a power of two) numbers along the last axis of `x`, times H / sqrt(size).

    H is symmetric and orthogonal, so this is its own inverse, and it keeps products of vectors that
    are both transformed. As one product with H: of the sizes of heads that is faster here than
    log2(size) passes of sums over memory.
    """
    assert size > 0 and size & (size - 1) == 0 and x.shape[-1] % size == 0, (size, x.shape)
    h = _matrix(size).to(x)
    return (x.unflatten(-1, (-1, size)) @ h).flatten(-2)


@cache
def _matrix(size: int) -> Tensor:
    """Sylvester's, float64."""
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < size:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h * size**-0.5


def largest_power_of_two(n: int) -> int:
    """The largest power of two that divides n."""
    return n & -n
