"""Unturned: keys as they were before their rotation by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from specdec.sparse.codecs.base import Parts, Place, Side
from specdec.sparse.maths.key_rotation import KeyRotation


@dataclass(frozen=True)
class Unturned:
    """k = R(t) base(R(t)^-1 k): base sees keys of all positions alike, R(t) turns what it gives.

    rotation: the model's own; None for a model that turns nothing.
    """

    base: Side
    rotation: KeyRotation | None

    def learn(self, x: Tensor, at: Place) -> Any:
        return self.base.learn(self._back(x, at), at)

    def encode(self, x: Tensor, at: Place, learned: Any) -> Parts:
        return self.base.encode(self._back(x, at), at, learned)

    def decode(self, parts: Parts, at: Place, learned: Any) -> Tensor:
        before = self.base.decode(parts, at, learned)
        if self.rotation is None:
            return before
        positions = at.positions.flatten()
        turned = self.rotation.turn(before.flatten(1, 2), positions, at.layers[at.which])
        return turned.view_as(before)

    def _back(self, x: Tensor, at: Place) -> Tensor:
        if self.rotation is None:
            return x
        positions, out = at.positions.flatten(), []
        for layer, keys in zip(at.layers, x.chunk(len(at.layers)), strict=True):
            out.append(self.rotation.turn_back(keys.flatten(1, 2), positions, layer))
        return torch.cat(out).view_as(x)
