"""Paired: two layers' vectors as one direction and two lengths (MiniCache, arXiv 2405.14366)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from specdec.sparse.codecs.base import Parts, Place, Side
from specdec.sparse.maths.merging import slerp


@dataclass(frozen=True)
class Paired:
    """x_l = |x_l| e for both layers of a pair, e between their directions on the arc, at `t`.

    e is kept by base. The share `retained` of each block's tokens whose directions differ most is
    kept as it is, by head. The paper retains by a threshold between the least and greatest
    distance; no code was released, and a share is what it is for.
    """

    base: Side
    t: float
    retained: float

    def learn(self, x: Tensor, at: Place) -> Any:
        return self.base.learn(self._direction(x)[0], at)

    def encode(self, x: Tensor, at: Place, learned: Any) -> Parts:
        """Lengths `[2 Hkv, P, S]`, the retained ones, which they are, and what base makes of e."""
        e, angle = self._direction(x)
        count = round(self.retained * x.shape[2])
        count = max(1, count) if self.retained else 0
        where = angle.topk(count, dim=-1).indices
        kept = x.gather(2, torch.cat([where, where])[..., None].expand(-1, -1, -1, x.shape[-1]))
        small = torch.uint8 if x.shape[2] <= 256 else torch.int16
        return x.norm(dim=-1), kept, where.to(small), *self.base.encode(e, at, learned)

    def decode(self, parts: Parts, at: Place, learned: Any) -> Tensor:
        lengths, kept, where, *rest = parts
        e = torch.nn.functional.normalize(self.base.decode(tuple(rest), at, learned), dim=-1)
        mine, own = lengths.chunk(2)[at.which], kept.chunk(2)[at.which]
        out = e * mine[..., None]
        return out.scatter_(2, where.long()[..., None].expand_as(own), own)

    def _direction(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The shared direction `[Hkv, P, S, D]` and the angle between the two."""
        a, b = torch.nn.functional.normalize(x, dim=-1).chunk(2)
        return slerp(a, b, self.t), (a * b).sum(-1).clamp(-1, 1).acos()
