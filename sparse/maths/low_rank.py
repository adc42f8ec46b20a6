"""low_rank: a matrix by its strongest directions."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.precision import wide


def directions(moment: Tensor, rank: int) -> Tensor:
    """The `rank` leading eigenvectors `[..., F, rank]` of second moments `x^T x [..., F, F]`.

    Projecting `x` on them is its best approximation of that rank (Eckart and Young 1936).
    """
    wider = wide(moment)
    _, vectors = torch.linalg.eigh(wider)
    return vectors[..., -rank:].flip(-1).to(moment.dtype)


def power_iteration(x: Tensor, rank: int, loops: int) -> tuple[Tensor, Tensor]:
    """`a [..., n, rank]` and `b [..., D, rank]` with `a b^T` near the best approximation of x.

    x: `[..., n, D]`. `loops` times b = orth(x^T a), a = x b (subspace iteration, as PowerSGD,
    arXiv 1905.13727, and GEAR use it). The start is noise of a fixed seed, so the same x gives the
    same factors whenever it is encoded.
    """
    generator = torch.Generator().manual_seed(0)
    rank = min(rank, *x.shape[-2:])
    wider = wide(x)
    start = torch.randn(x.shape[-2], rank, generator=generator, dtype=torch.float64)
    a = start.to(wider).expand(*x.shape[:-2], -1, -1)
    b = a
    for _ in range(loops):
        b = torch.linalg.qr(wider.mT @ a).Q
        a = wider @ b
    return a.to(x.dtype), b.to(x.dtype)
