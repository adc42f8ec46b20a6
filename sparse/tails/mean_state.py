"""MeanState: old tokens as one, their mean key and mean value with their number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class MeanState:
    """The tokens `first .. end` of one row: sums of keys `[Hkv, D]` and of values `[Hkv, Dv]`.

    Attention gives them the mass n exp(q mean(k)), which is never more than they have (Jensen), and
    their mean value: linear attention with no other features than 1. Sums are in float64, so that
    their order tells little.
    """

    first: int = 0
    end: int = 0
    k: Tensor | None = None
    v: Tensor | None = None

    def update(self, k: Tensor, v: Tensor, first: int, end: int, scale: float) -> None:
        """Take up, in place, the tokens up to `end` of `k, v[Hkv, capacity, D]`."""
        if first != self.first or end < self.end:
            self.first = self.end = first
            self.k = self.v = None
        if end <= self.end:
            return
        new = [x[:, self.end : end].double().sum(dim=1) for x in (k, v)]
        if self.k is not None and self.v is not None:
            new = [self.k + new[0], self.v + new[1]]
        (self.k, self.v), self.end = new, end

    def attend(self, q: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """The mean value and log (n exp(q k)) for `q[H, N, D]`: `[H, N, Dv]`, `[H, N]`."""
        assert self.k is not None and self.v is not None
        kind, n = torch.promote_types(q.dtype, torch.float32), self.end - self.first
        k, v = (x.to(kind) / n for x in (self.k, self.v))
        asked = q.to(kind).unflatten(0, (len(k), -1))
        lse = (asked @ k[:, None, :, None])[..., 0].flatten(0, 1) * scale
        o = v[:, None, None].expand(*asked.shape[:3], -1).flatten(0, 1)
        return o, lse + torch.tensor(n, dtype=kind).log()

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (self.k, self.v) if x is not None)
