"""StepScorer: how important tokens are, by running statistics of the attention that they get."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from specdec.kernels.precision import wide

Statistics = tuple[Tensor, ...]  # each `[Hkv, T, ...]`, a line for every committed token


@dataclass(frozen=True, eq=False)
class Observed:
    """The attention of `n` neighbouring queries that the text went through, in order.

    logits: `[Hkv, G, n, T]`, scaled products with the keys of the T committed tokens, G query heads
    to each KV head; -inf where a query does not see a key. first: position of the first query.
    prompt: tokens of the prompt. layer: of the model.
    """

    logits: Tensor
    first: int
    prompt: int
    layer: int = 0

    @property
    def positions(self) -> Tensor:
        """Of the queries, `int32[n]`; a query at p sees p + 1 tokens."""
        count, device = self.logits.shape[2], self.logits.device
        return torch.arange(self.first, self.first + count, dtype=torch.int32, device=device)

    @cached_property
    def mass(self) -> Tensor:
        """Their attention, `[Hkv, G, n, T]`; float64 for float64, float32 for all others."""
        logits = wide(self.logits)
        return logits.softmax(dim=-1)


class StepScorer(Protocol):
    """Running statistics of one or two numbers for each token and KV head, and what they say.

    Statistics are fed with queries that the text went through and with no others, each once and in
    order, so what verification rejects never enters them.
    """

    @property
    def key(self) -> str:
        """Name of its statistics: scorers with the same key can share them."""

    def begin(self, heads: int, like: Tensor) -> Statistics:
        """Statistics of no tokens, on the device and in the precision of `like`."""

    def update(self, statistics: Statistics, seen: Observed) -> Statistics:
        """Statistics of the T tokens that `seen` speaks of; those given may be changed in place."""

    def scores(self, statistics: Statistics, length: int) -> Tensor:
        """Importances `[Hkv, T]`, the greatest is kept first; `length` tokens are committed."""


def grown(x: Tensor, tokens: int) -> Tensor:
    """`x[Hkv, T, ...]` with lines of zeros for tokens that have come since."""
    more = tokens - x.shape[1]
    if more <= 0:
        return x
    return torch.cat([x, x.new_zeros(x.shape[0], more, *x.shape[2:])], dim=1)
