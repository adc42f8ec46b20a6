"""ByRange: channels of wide range by one side, the others by another (VidKV, arXiv 2503.16257)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from specdec.sparse.codecs.base import Parts, Place, Side

Learned = tuple[Tensor, Tensor, Any, Any, int]


@dataclass(frozen=True)
class ByRange:
    """The `share` of a layer's channels that spans most, max - min over all heads and tokens of the
    text that is there first, goes to `wide`, the rest to `narrow`."""

    wide: Side
    narrow: Side
    share: float = 0.5

    def learn(self, x: Tensor, at: Place) -> Learned:
        """The channels of both kinds, what their sides learn, and how many parts `wide` gives."""
        flat = x.flatten(0, 2)
        order = (flat.amax(0) - flat.amin(0)).argsort(descending=True, stable=True)
        count = max(1, min(len(order) - 1, round(self.share * len(order))))
        first, last = order[:count].sort().values, order[count:].sort().values
        wide, narrow = self.wide.learn(x[..., first], at), self.narrow.learn(x[..., last], at)
        parts = self.wide.encode(x[:, :1, ..., first].contiguous(), at, wide)
        return first, last, wide, narrow, len(parts)

    def encode(self, x: Tensor, at: Place, learned: Learned) -> Parts:
        first, last, wide, narrow, _ = learned
        parts = self.wide.encode(x[..., first].contiguous(), at, wide)
        return (*parts, *self.narrow.encode(x[..., last].contiguous(), at, narrow))

    def decode(self, parts: Parts, at: Place, learned: Learned) -> Tensor:
        first, last, wide, narrow, count = learned
        a = self.wide.decode(parts[:count], at, wide)
        b = self.narrow.decode(parts[count:], at, narrow)
        out = torch.empty(*a.shape[:-1], len(first) + len(last), dtype=a.dtype, device=a.device)
        out[..., first], out[..., last] = a, b.to(a)
        return out
