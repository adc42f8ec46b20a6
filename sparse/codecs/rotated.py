"""Rotated: channels in an order, then spread by a Hadamard transform (RotateKV, 2501.16383)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from specdec.sparse.codecs.base import Parts, Place, Side
from specdec.sparse.maths.hadamard import hadamard, largest_power_of_two


@dataclass(frozen=True)
class Rotated:
    """x = (base(x P H) H) P^T: P orders the channels of `heads` heads together, H spreads them.

    ordered: P sorts channels by their sums over the first text, the greatest first; else it is the
    identity. The paper sums over a calibration text and folds P H into the weights; the text at
    hand is nearer, and there is nothing to fold into where keys come from a cache. H has the
    largest power of two that divides heads * D, so a head of 96 has three runs of 32.
    """

    base: Side
    heads: int
    ordered: bool

    def learn(self, x: Tensor, at: Place) -> tuple[Tensor, Any]:
        """The order `int64[Hkv / heads, 1, 1, heads * D]`, and what base learns."""
        joined = self._join(x)
        sums = joined.sum(dim=(1, 2), keepdim=True)
        if self.ordered:
            order = sums.argsort(dim=-1, descending=True)
        else:
            order = torch.arange(sums.shape[-1], device=x.device).expand(sums.shape)
        return order, self.base.learn(self._spread(joined, order), at)

    def encode(self, x: Tensor, at: Place, learned: tuple[Tensor, Any]) -> Parts:
        order, below = learned
        return self.base.encode(self._spread(self._join(x), order), at, below)

    def decode(self, parts: Parts, at: Place, learned: tuple[Tensor, Any]) -> Tensor:
        order, below = learned
        spread = self.base.decode(parts, at, below)
        plain = hadamard(spread, largest_power_of_two(spread.shape[-1]))
        joined = plain.gather(-1, order.argsort(-1).expand_as(plain))
        return joined.unflatten(-1, (self.heads, -1)).movedim(-2, 1).flatten(0, 1)

    def _join(self, x: Tensor) -> Tensor:
        """`[Hkv / heads, P, S, heads * D]` of `[Hkv, P, S, D]`."""
        return x.unflatten(0, (-1, self.heads)).movedim(1, -2).flatten(-2)

    def _spread(self, joined: Tensor, order: Tensor) -> Tensor:
        ordered = joined.gather(-1, order.expand_as(joined))
        return hadamard(ordered, largest_power_of_two(ordered.shape[-1]))
