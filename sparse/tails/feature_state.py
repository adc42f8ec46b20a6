"""FeatureState: old tokens as linear attention keeps them, a state that does not grow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.kernels.precision import wide
from specdec.sparse.maths.random_features import directions, log_features


@dataclass(eq=False)
class FeatureState:
    """S = sum phi(k_t) v_t^T and z = sum phi(k_t) over the tokens `first .. end` of one row.

    Kept as log z `[Hkv, m]` and S / z `[Hkv, m, Dv]`, which no size of keys overflows. Tokens that
    are taken back cannot be taken out of a sum, so then it is made anew. features: m, random ones
    of exp(q k) (`maths.random_features`).
    """

    features: int
    first: int = 0
    end: int = 0
    log_z: Tensor | None = None
    mean: Tensor | None = None

    def update(self, k: Tensor, v: Tensor, first: int, end: int, scale: float) -> None:
        """Take up, in place, the tokens up to `end` of `k, v[Hkv, capacity, D]`."""
        if first != self.first or end < self.end:
            self.first = self.end = first
            self.log_z = self.mean = None
        if end <= self.end:
            return
        w = directions(self.features, k.shape[-1])
        keys = k[:, self.end : end] * scale**0.5
        logits = log_features(wide(keys), w).mT
        values = v[:, self.end : end].to(logits)
        log_z = logits.logsumexp(-1)
        mean = (logits - log_z[..., None]).exp() @ values
        if self.log_z is not None and self.mean is not None:
            both = torch.logaddexp(self.log_z, log_z)
            old, new = (self.log_z - both).exp(), (log_z - both).exp()
            log_z, mean = both, old[..., None] * self.mean + new[..., None] * mean
        self.log_z, self.mean, self.end = log_z, mean, end

    def attend(self, q: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """phi(q) S / (phi(q) z) and log (phi(q) z) for `q[H, N, D]`: `[H, N, Dv]`, `[H, N]`."""
        assert self.log_z is not None and self.mean is not None
        heads, nodes, dim = q.shape
        w = directions(self.features, dim)
        asked = q * scale**0.5
        logits = log_features(wide(asked), w)
        logits = logits.unflatten(0, (len(self.log_z), -1)) + self.log_z[:, None, None].to(logits)
        lse = logits.logsumexp(-1)
        weights = (logits - lse[..., None]).exp()
        o = weights.flatten(1, 2) @ self.mean.to(logits)
        return o.view(heads, nodes, -1), lse.view(heads, nodes)

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (self.log_z, self.mean) if x is not None)
