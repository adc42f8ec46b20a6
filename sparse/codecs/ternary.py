"""Ternary: -s, 0 or s, in 1.6 bits (VidKV, arXiv 2503.16257)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from specdec.kernels.precision import wide
from specdec.sparse.codecs.base import Parts, Place

DIGITS = 5  # of base 3 in a byte


@dataclass(frozen=True)
class Ternary:
    """x is about s * sign(x) where |x| is above `threshold` * s, and 0 elsewhere; s is the mean of
    |x| over the tokens of a block, for each channel."""

    threshold: float = 0.5

    def learn(self, x: Tensor, at: Place) -> None:
        return None

    def encode(self, x: Tensor, at: Place, learned: None) -> Parts:
        """Digits `uint8[Hkv, P, S, ceil(D / 5)]`, and scales `[Hkv, P, D]`."""
        scale = wide(x).abs().mean(-2).to(x.dtype)
        high = self.threshold * scale[..., None, :]
        return pack3((x > high).to(torch.uint8) + (x >= -high).to(torch.uint8)), scale

    def decode(self, parts: Parts, at: Place, learned: None) -> Tensor:
        packed, scale = parts
        digits = unpack3(packed)[..., : scale.shape[-1]]
        return (digits.to(scale) - 1) * scale[..., None, :]


def pack3(digits: Tensor) -> Tensor:
    """Digits 0 to 2, `uint8[..., n]`, five in a byte: `uint8[..., ceil(n / 5)]`."""
    whole = pad(digits, (0, -digits.shape[-1] % DIGITS)).unflatten(-1, (-1, DIGITS))
    powers = 3 ** torch.arange(DIGITS, device=digits.device)
    return (whole.long() * powers).sum(-1).to(torch.uint8)


def unpack3(packed: Tensor) -> Tensor:
    """What was packed, and the digits that filled it up."""
    powers = 3 ** torch.arange(DIGITS, device=packed.device)
    return (packed.long()[..., None] // powers % 3).flatten(-2)
