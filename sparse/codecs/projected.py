"""Projected: all heads of a token, of one layer or of several, in the directions that tell most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from specdec.kernels.precision import wide
from specdec.sparse.codecs.base import Parts, Place, Side
from specdec.sparse.codecs.plain import Plain
from specdec.sparse.maths.low_rank import directions


@dataclass(frozen=True, eq=False)
class Projected:
    """x = base(x P) P^T, with orthonormal P `[F, share * F]` of the F channels of all heads.

    P: of `bases`, by layer, where it was calibrated; else the right singular vectors of the first
    text's numbers, in which each number's best approximation of that rank lies (Eckart and Young
    1936). Of every token share * F numbers are kept.
    """

    share: float
    bases: Mapping[int, Tensor] = field(default_factory=dict)
    base: Side = Plain()

    def learn(self, x: Tensor, at: Place) -> tuple[Tensor, Any]:
        """P `[F, rank]`, and what base learns of x P."""
        flat = _flat(x)
        rank = max(4, int(self.share * flat.shape[-1]) // 4 * 4)  # codes of it fill bytes
        p = self.bases.get(at.layers[0])
        if p is not None:
            p = p[:, :rank].to(x)
        else:
            rows = flat.flatten(0, 1)
            wider = wide(rows)
            p = directions(wider.mT @ wider, rank).to(x)
        return p, self.base.learn((flat @ p)[None], at)

    def encode(self, x: Tensor, at: Place, learned: tuple[Tensor, Any]) -> Parts:
        p, below = learned
        return self.base.encode((_flat(x) @ p)[None], at, below)

    def decode(self, parts: Parts, at: Place, learned: tuple[Tensor, Any]) -> Tensor:
        p, below = learned
        mine = p.chunk(len(at.layers))[at.which]
        flat = self.base.decode(parts, at, below)[0] @ mine.mT
        return flat.unflatten(-1, (at.heads, -1)).permute(2, 0, 1, 3)


def _flat(x: Tensor) -> Tensor:
    """`[P, S, Hkv * D]` of `[Hkv, P, S, D]`."""
    return x.permute(1, 2, 0, 3).flatten(2)
