"""How far keys and values are from what they would be, and which tokens are farthest."""

from __future__ import annotations

import torch
from torch import Tensor


def deviation(k: Tensor, v: Tensor, new_k: Tensor, new_v: Tensor) -> Tensor:
    """`[n]`: squared distance of each token's keys and values, over all heads of a layer.

    `Δ_t = Σ_h ‖k_ht − k'_ht‖² + ‖v_ht − v'_ht‖²`, all `[Hkv, n, D]`, in float32 at least.
    """
    wide = torch.float64 if k.dtype == torch.float64 else torch.float32
    of_keys, of_values = (
        (new.to(wide) - old.to(wide)).square().sum((0, 2)) for old, new in ((k, new_k), (v, new_v))
    )
    return of_keys + of_values


def farthest(deviations: Tensor, count: int) -> Tensor:
    """Places `int64[count]` of the largest `deviations[n]`, in order; of equal ones the first."""
    best = deviations.sort(descending=True, stable=True).indices[:count]
    return best.sort().values
