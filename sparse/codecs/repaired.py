"""Repaired: few bits, and what they get wrong in few numbers (GEAR, arXiv 2403.05527)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from specdec.sparse.codecs.base import Parts, Place, Side
from specdec.sparse.codecs.grouped import TOKENS
from specdec.sparse.maths.low_rank import power_iteration

LOOPS = 3  # of power iteration (GEAR's released code)


@dataclass(frozen=True)
class Repaired:
    """x = base(x - S) + A B^T, with S put back: outliers, and the error's strongest directions.

    Of every vector (`along` tokens or channels, as base scales) the outliers / 2 greatest and least
    numbers are kept as they are, at least one of each, unless `outliers` is 0 (GEAR-L). A is
    `[S, rank]` and B `[D, rank]` of each head and block. The mean of the others stands for outliers
    before they are coded, where the paper has 0: that may lie outside of their range.
    """

    base: Side
    along: str
    rank: int
    outliers: float

    def learn(self, x: Tensor, at: Place) -> Any:
        return self.base.learn(x, at)

    def encode(self, x: Tensor, at: Place, learned: Any) -> Parts:
        """A, B, the outliers and where they are, and what base makes of the rest."""
        count, dim = self._count(x.shape[self._dim]), self._dim
        high, low = (x.topk(count, dim, largest=most).indices for most in (True, False))
        where = torch.cat([high, low], dim=dim)
        kept = x.gather(dim, where)
        rest = x.sum(dim, keepdim=True) - kept.sum(dim, keepdim=True)
        mean = rest / (x.shape[dim] - where.shape[dim])
        bare = x.scatter(dim, where, mean.expand_as(kept))
        parts = self.base.encode(bare, at, learned)
        error = (bare - self.base.decode(parts, at, learned)).scatter_(dim, where, 0.0)
        a, b = power_iteration(error, self.rank, LOOPS)
        small = torch.uint8 if x.shape[dim] <= 256 else torch.int16
        return a, b, kept, where.to(small), *parts

    def decode(self, parts: Parts, at: Place, learned: Any) -> Tensor:
        a, b, kept, where, *rest = parts
        out = self.base.decode(tuple(rest), at, learned) + a @ b.mT
        return out.scatter_(self._dim, where.long(), kept)

    @property
    def _dim(self) -> int:
        return -2 if self.along == TOKENS else -1

    def _count(self, size: int) -> int:
        """Outliers of either kind in a vector of so many numbers, fewer than all together."""
        wanted = max(1, round(self.outliers / 2 * size)) if self.outliers else 0
        return min(wanted, (size - 1) // 2)
