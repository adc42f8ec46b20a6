"""Joint: keys and values of a token as one vector (the latent of X-EcoMLA, arXiv 2503.11132)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from specdec.errors import UnsupportedModel
from specdec.sparse.codecs.base import Place, Side
from specdec.sparse.codecs.codec import Coded, Decoded
from specdec.sparse.maths.key_rotation import KeyRotation


@dataclass(frozen=True)
class Joint(Decoded):
    """[R(t)^-1 k; v] of all heads through one side; a `Codec`.

    rotation: the model's own, which is undone before keys join values, and done again after.
    """

    side: Side
    rotation: KeyRotation | None
    block: int
    keeps_values = True

    def learn(self, k: Tensor, v: Tensor, at: Place) -> Any:
        return self.side.learn(self._joined(k, v, at), self._place(at))

    def encode(self, k: Tensor, v: Tensor, at: Place, learned: Any) -> Coded:
        return (self.side.encode(self._joined(k, v, at), self._place(at), learned),)

    def decode(self, coded: Coded, at: Place, learned: Any) -> tuple[Tensor, Tensor]:
        both = self._place(at)
        k, v = (self.side.decode(coded[0], replace(both, which=i), learned) for i in (0, 1))
        if self.rotation is not None:
            flat = self.rotation.turn(k.flatten(1, 2), at.positions.flatten(), at.layers[0])
            k = flat.view_as(k)
        return k, v

    def _joined(self, k: Tensor, v: Tensor, at: Place) -> Tensor:
        """`[2 Hkv, P, S, D]`."""
        if k.shape != v.shape:
            raise UnsupportedModel(
                f"keys of {k.shape[-1]} and values of {v.shape[-1]} channels cannot be kept as one"
            )
        if self.rotation is not None:
            flat = self.rotation.turn_back(k.flatten(1, 2), at.positions.flatten(), at.layers[0])
            k = flat.view_as(k)
        return torch.cat([k, v])

    def _place(self, at: Place) -> Place:
        """Keys and values take the place of two layers' heads."""
        return replace(at, layers=(*at.layers, *at.layers))
