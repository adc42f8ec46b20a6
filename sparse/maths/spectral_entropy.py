"""spectral_entropy: how many directions vectors really use."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def spectral_entropy(x: Tensor, top: int = 32) -> Tensor:
    """Truncated entropy of the covariance's spectrum, `[...]`, for vectors `x[..., n, D]`.

    UNComp (arXiv 2410.03090, eq. 5): rows are centred and scaled to length 1; with l the `top` (32)
    largest eigenvalues of their covariance divided by its trace, -sum l log l / log D. 0: all on
    one line.
    """
    x = x.double() - x.double().mean(dim=-2, keepdim=True)
    x = torch.nn.functional.normalize(x, dim=-1)
    covariance = x.mT @ x / x.shape[-2]
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(1e-300)
    values = torch.linalg.eigvalsh(covariance / trace[..., None, None]).clamp_min(0)
    kept = values[..., -top:]
    return -torch.xlogy(kept, kept).sum(dim=-1) / math.log(x.shape[-1])
