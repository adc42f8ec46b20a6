"""Grouped: codes of a few bits, scaled by the range of a group of tokens or of channels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from specdec.kernels.cache import codes
from specdec.sparse.codecs.base import Parts, Place

TOKENS, CHANNELS, HEADS = "tokens", "channels", "heads"


@dataclass(frozen=True)
class Grouped:
    """x is about code * step + low, with `bits` a code and a step and a low for every group.

    along: what a group holds: `group` tokens of a channel ("tokens"), `group` channels of a token
    ("channels"), or all channels of all heads of a token ("heads"). A group is as long as it can be
    up to `group`, such that groups divide a block or a head evenly. clip: the share of the range
    that codes span (1 is all of it). A number takes bits + 2 * (bits of the model's numbers) /
    group. (KIVI, arXiv 2402.02750, eq. 1, with these groups.)
    """

    bits: int
    group: int
    along: str
    clip: float = 1.0

    def learn(self, x: Tensor, at: Place) -> None:
        return None

    def encode(self, x: Tensor, at: Place, learned: None) -> Parts:
        """Packed codes `uint8[Hkv, P, S, D * bits / 8]`, steps and lows."""
        coded, step, low = codes.encode(self._split(x), self.bits, dim=self._dim, clip=self.clip)
        back = self._joined(coded, x.shape)
        return codes.pack(back, self.bits), step.squeeze(self._dim), low.squeeze(self._dim)

    def decode(self, parts: Parts, at: Place, learned: None) -> Tensor:
        packed, step, low = parts
        coded = codes.unpack(packed, self.bits)
        step, low = step.unsqueeze(self._dim), low.unsqueeze(self._dim)
        wide = self._split(coded).to(step)
        return self._joined(wide.mul_(step).add_(low), coded.shape)

    @property
    def _dim(self) -> int:
        """The axis of a group, where groups have one of their own."""
        return -2 if self.along == TOKENS else -1

    def _split(self, x: Tensor) -> Tensor:
        if self.along == HEADS:  # [P, S, Hkv * D], as one head of all
            return x.permute(1, 2, 0, 3).flatten(2)[None]
        size = x.shape[self._dim]
        return x.unflatten(self._dim, (-1, even(size, self.group)))

    def _joined(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        if self.along == HEADS:
            return x[0].unflatten(-1, (shape[0], shape[-1])).permute(2, 0, 1, 3)
        return x.flatten(-3, -2) if self.along == TOKENS else x.flatten(-2)


def even(size: int, most: int) -> int:
    """The largest divisor of `size` that is not above `most`."""
    return max(n for n in range(1, min(size, most) + 1) if size % n == 0)
