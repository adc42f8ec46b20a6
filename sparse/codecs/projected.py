"""Projected: all heads of a token, of one layer or of several, in the directions that tell most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from specdec.sparse.codecs.base import Parts, Place
from specdec.sparse.maths.low_rank import directions


@dataclass(frozen=True, eq=False)
class Projected:
    """x = (x P) P^T, with orthonormal P `[F, share * F]` of the F channels of all heads together.

    P: of `bases`, by layer, where it was calibrated; else the right singular vectors of the first
    text's numbers, in which each number's best approximation of that rank lies (Eckart and Young
    1936). Of every token share * F numbers are kept.
    """

    share: float
    bases: Mapping[int, Tensor] = field(default_factory=dict)

    def learn(self, x: Tensor, at: Place) -> Tensor:
        """P `[F, rank]`."""
        flat = _flat(x)
        rank = max(1, round(self.share * flat.shape[-1]))
        known = self.bases.get(at.layers[0])
        if known is not None:
            return known[:, :rank].to(x)
        rows = flat.flatten(0, 1)
        wide = rows if x.dtype == torch.float64 else rows.float()
        return directions(wide.mT @ wide, rank).to(x)

    def encode(self, x: Tensor, at: Place, learned: Tensor) -> Parts:
        return ((_flat(x) @ learned)[None],)

    def decode(self, parts: Parts, at: Place, learned: Tensor) -> Tensor:
        mine = learned.chunk(len(at.layers))[at.which]
        flat = parts[0][0] @ mine.mT
        return flat.unflatten(-1, (at.heads, -1)).permute(2, 0, 1, 3)


def _flat(x: Tensor) -> Tensor:
    """`[P, S, Hkv * D]` of `[Hkv, P, S, D]`."""
    return x.permute(1, 2, 0, 3).flatten(2)
