"""hadamard: the orthonormal Walsh-Hadamard transform spreads what stands out over a vector."""

from __future__ import annotations

import torch
from torch import Tensor


def hadamard(x: Tensor, size: int) -> Tensor:
    """Each run of `size` (a power of two) numbers along the last axis of `x`, times H / sqrt(size).

    H is symmetric and orthogonal, so this is its own inverse, and it keeps products of vectors that
    are both transformed. By butterflies: size * log2(size) sums a run.
    """
    assert size > 0 and size & (size - 1) == 0 and x.shape[-1] % size == 0, (size, x.shape)
    out, width = x.unflatten(-1, (-1, size)), 1
    while width < size:
        a, b = out.unflatten(-1, (-1, 2, width)).unbind(-2)
        out = torch.stack([a + b, a - b], dim=-2).flatten(-3)
        width *= 2
    return (out * size**-0.5).flatten(-2)


def largest_power_of_two(n: int) -> int:
    """The largest power of two that divides n."""
    return n & -n
