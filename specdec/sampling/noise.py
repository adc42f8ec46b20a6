"""Noise: every random number of a generation, as a function of seed, prompt and place.

A row's key is a digest of the seed and of its prompt (its ids, or `Prompt.keys`), so unlike prompts
share nothing, and a prompt's text is the same alone and in any batch; equal prompts of one call
differ by their `sample`. Gumbel noise of the *target* is keyed by the absolute position of the
token it decides. The target's choice argmax(log p + g) then does not depend on the drafter, the
draft length or the batch, which is what makes seeded text reproducible across all of them. Under
rejection sampling the tests and the drafts of one round need numbers of their own, keyed by the
round: a position's number must not be used again after a test of it was seen to fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from specdec.kernels.sampling.philox import uniform

_FLOAT = torch.float64


class Stream(IntEnum):
    """What a number is for: the lower bits of a counter's last word."""

    TARGET = 0  # the token at a position
    DRAFT = 1  # the children of a node, in one round of one drafter
    TEST = 2  # the tests of one round, and the token drawn at their end
    INNER = 3  # a token of a drafter's own verification, some tokens ahead in one of its rounds


class Counter(NamedTuple):
    """The upper three words of a Philox counter; the lowest one counts through a vocabulary.

    Within one key no two uses share a number, because `of` packs each of what it is given into bits
    of its own, and refuses what they cannot hold: 32 for `where` (a position or round) and for
    `sample`, 30 for `index` and 2 for the stream.
    """

    where: int
    sample: int
    last: int

    @classmethod
    def of(cls, stream: Stream, where: int, sample: int, index: int = 0) -> Counter:
        for value, bits in ((where, 32), (sample, 32), (index, 30)):
            assert 0 <= value < 1 << bits, f"{value} does not fit the {bits} bits of a counter"
        return cls(where, sample, index << 2 | stream)


def digest(key: int, words: bytes) -> int:
    """64 bits that depend on all of `key` (64 bits) and `words`: keyed BLAKE2b."""
    keyed = blake2b(words, digest_size=8, key=key.to_bytes(8, "little"))
    return int.from_bytes(keyed.digest(), "little")


@dataclass(frozen=True)
class Noise:
    """The random numbers of one row; a value without state.

    key: of seed and prompt; see `of`. sample: the how-manieth row with this prompt in its call.
    rounds: the key of what is numbered by rounds; None is `key` itself. See `inside`.
    """

    key: int
    sample: int = 0
    rounds: int | None = None

    @classmethod
    def of(cls, seed: int, prompt: Sequence[int], sample: int = 0) -> Noise:
        """The noise of one row under `seed`, 0 <= seed < 2^64."""
        return cls(digest(seed, np.asarray(prompt, dtype="<i8").tobytes()), sample)

    def inside(self, name: str, round_: int) -> Noise:
        """The same noise of the text, and a key of its own for what `name` draws in one round.

        So drafters that work side by side share no numbers, and one that verifies something itself
        may number its rounds from 0 in each round of the outer level.
        """
        rounds = digest(self._rounds, round_.to_bytes(8, "little") + name.encode())
        return replace(self, rounds=rounds)

    def target(self, position: int, vocab_size: int, device: torch.device | str) -> Tensor:
        """Gumbel noise `float64[V]` of the token at absolute `position`."""
        return _gumbel(self.key, self.counter(position), vocab_size, device)

    def counter(self, position: int) -> Counter:
        """Where that noise starts, under `key`: for kernels that draw the same."""
        return Counter.of(Stream.TARGET, position, self.sample)

    def draft(self, round_: int, node: int, vocab_size: int, device: torch.device | str) -> Tensor:
        """Gumbel noise `float64[V]` for drawing the children of `node` in one round."""
        counter = Counter.of(Stream.DRAFT, round_, self.sample, node)
        return _gumbel(self._rounds, counter, vocab_size, device)

    def inner(self, round_: int, ahead: int, vocab_size: int, device: torch.device | str) -> Tensor:
        """Gumbel noise `float64[V]` of the token `ahead` of a drafter's own round."""
        counter = Counter.of(Stream.INNER, round_, self.sample, ahead)
        return _gumbel(self._rounds, counter, vocab_size, device)

    def tests(self, round_: int) -> Tests:
        """The acceptance tests of one round."""
        return Tests(self._rounds, self.sample, round_)

    @property
    def _rounds(self) -> int:
        return self.key if self.rounds is None else self.rounds


@dataclass
class Tests:
    """Independent numbers for the tests of one verification, and for the token drawn at its end."""

    key: int
    sample: int
    round: int
    used: int = 0

    def counter(self, used: int) -> Counter:
        """Where the number that follows `used` others stands."""
        return Counter.of(Stream.TEST, self.round, self.sample, used)

    def uniform(self) -> float:
        """The next number in (0, 1)."""
        return float(uniform(self.key, self._next(), 1, "cpu"))

    def draw(self, probs: Tensor) -> int:
        """A token from `probs[V]`, by the Gumbel-max trick on fresh noise."""
        gumbel = _gumbel(self.key, self._next(), probs.shape[-1], probs.device)
        return int((probs.to(_FLOAT).log() + gumbel).argmax())

    def _next(self) -> Counter:
        self.used += 1
        return self.counter(self.used - 1)


def _gumbel(key: int, counter: Counter, n: int, device: torch.device | str) -> Tensor:
    return -torch.log(-torch.log(uniform(key, counter, n, device)))
