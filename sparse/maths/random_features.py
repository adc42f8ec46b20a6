"""random_features: exp(q k) as a product of features of q and of k (Performer, 2009.14794)."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor


@cache
def directions(count: int, dim: int) -> Tensor:
    """`count` Gaussian directions `[count, dim]`, float64, orthogonal in runs of `dim`, by a fixed
    seed: the norms of rows are those of Gaussian vectors (the paper's orthogonal features)."""
    generator = torch.Generator().manual_seed(0)
    runs = []
    for _ in range(-(-count // dim)):
        q, r = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
        runs.append(q * r.diagonal().sign())  # of any direction alike (Mezzadri 2007)
    norms = torch.randn(count, dim, generator=generator, dtype=torch.float64).norm(dim=1)
    return torch.cat(runs)[:count] * norms[:, None]


def log_features(x: Tensor, w: Tensor) -> Tensor:
    """log phi(x) `[..., m]`, phi_j(x) = exp(w_j x - |x|^2 / 2) / sqrt(m), for `x[..., D]`.

    All phi are positive, and the mean of phi(q) phi(k) over w is exp(q k) (its lemma 1).
    """
    half = (x * x).sum(-1, keepdim=True) / 2
    return x @ w.to(x).mT - half - math.log(len(w)) / 2
