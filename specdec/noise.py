"""Noise: every random number of a generation, as a function of (seed, sample, place).

Gumbel noise of the *target* is keyed by the absolute position of the token it decides. The target's
choice argmax(log p + g) then does not depend on the drafter, the draft length or the batch, which
is what makes seeded text reproducible across all of them. Under rejection sampling the tests and
the drafts of one round need numbers of their own, keyed by the round: a position's number must not
be used again after a test of it was seen to fail.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.kernels.philox import uniform

_TARGET, _DRAFT, _TEST = range(3)  # streams, in the upper bits of the last counter word
_FLOAT = torch.float64


@dataclass(frozen=True)
class Noise:
    """The random numbers of sample number `sample` under `seed`; a value without state."""

    seed: int
    sample: int = 0

    def target(self, position: int, vocab_size: int, device: torch.device | str) -> Tensor:
        """Gumbel noise `float64[V]` of the token at absolute `position`."""
        return self._gumbel(self.place(position), vocab_size, device)

    def place(self, position: int) -> tuple[int, int, int]:
        """The upper words of the counter at `position`, for kernels that draw the same noise."""
        return position, self.sample, _TARGET

    def draft(self, round_: int, node: int, vocab_size: int, device: torch.device | str) -> Tensor:
        """Gumbel noise `float64[V]` for drawing the children of `node` in one round."""
        return self._gumbel((round_, self.sample, node << 2 | _DRAFT), vocab_size, device)

    def tests(self, round_: int, level: int = 0) -> Tests:
        """The acceptance tests of one round at one level of a drafter hierarchy."""
        return Tests(self, round_, level)

    def _gumbel(self, counter: tuple[int, int, int], n: int, device: torch.device | str) -> Tensor:
        return -torch.log(-torch.log(uniform(self.seed, counter, n, device)))


@dataclass
class Tests:
    """Independent numbers for the tests of one verification, and for the token drawn at its end."""

    noise: Noise
    round: int
    level: int
    used: int = 0

    def place(self, used: int) -> tuple[int, int, int]:
        """The upper words of the counter of the number that follows `used` others."""
        return self.round, self.noise.sample, (self.level << 16 | used) << 2 | _TEST

    def uniform(self) -> float:
        """The next number in (0, 1)."""
        counter = self.place(self.used)
        self.used += 1
        return float(uniform(self.noise.seed, counter, 1, "cpu"))

    def draw(self, probs: Tensor) -> int:
        """A token from `probs[V]`, by the Gumbel-max trick on fresh noise."""
        counter = self.place(self.used)
        self.used += 1
        gumbel = self.noise._gumbel(counter, probs.shape[-1], probs.device)
        return int((probs.to(_FLOAT).log() + gumbel).argmax())
