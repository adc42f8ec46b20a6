"""RetainingHeads: small networks that foretell how much a token will be looked at (Locret)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from specdec.sparse.calibrations.layer_pairs import LayerPairs


@dataclass(frozen=True, eq=False)
class RetainingHeads(LayerPairs):
    """score[h, t] = (silu(x_t W1) W2)[h] with x_t = [q_t, k_t, v_t], for each layer.

    Locret (arXiv 2410.01805, eq. 3): q_t of all query heads, k_t and v_t of all KV heads, before
    rotation; no bias. layers: W1 `[(Hq + Hkv) * D + Hkv * Dv, hidden]` and W2 `[hidden, Hkv]`, None
    for a sliding window. The scores foretell the greatest logit that a later query gives a token.
    """

    format = "specdec retaining heads 1"
    of_what = "retaining heads"
    names = ("w1", "w2")
    how = "`specdec calibrate locret FILE` trains some"

    def scores(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`[Hkv, n]` of n tokens, whose `q[Hq, n, D]`, `k[Hkv, n, D]` and `v[Hkv, n, Dv]` are
        before rotation."""
        weights = self.layers[layer]
        assert weights is not None, layer
        return retained(features(q, k, v).to(weights[0]), *weights).mT


def features(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`[n, (Hq + Hkv) * D + Hkv * Dv]`: what a layer makes of each token."""
    return torch.cat([x.transpose(0, 1).flatten(1) for x in (q, k, v)], dim=-1)


def retained(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """`[..., n, Hkv]` for features `x[..., n, F]`."""
    return silu(x @ w1) @ w2
