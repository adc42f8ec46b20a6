"""How far keys and values are from what they would be, and which tokens are farthest."""

from __future__ import annotations

from torch import Tensor

from specdec.kernels.precision import wide_dtype


def deviation(k: Tensor, v: Tensor, new_k: Tensor, new_v: Tensor) -> Tensor:
    """`[n]`: squared distance of each token's keys and values, over all heads of a layer.

    `Δ_t = Σ_h ‖k_ht − k'_ht‖² + ‖v_ht − v'_ht‖²`, all `[Hkv, n, D]`, in float32 at least.
    """
    dtype = wide_dtype(k.dtype)
    of_keys, of_values = (
        (now.to(dtype) - old.to(dtype)).square().sum((0, 2))
        for old, now in ((k, new_k), (v, new_v))
    )
    return of_keys + of_values


def farthest(deviations: Tensor, count: int) -> Tensor:
    """Places `int64[count]` of the largest `deviations[n]`, in order; of equal ones the first."""
    best = deviations.sort(descending=True, stable=True).indices[:count]
    return best.sort().values
