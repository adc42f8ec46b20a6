"""Sizes: what drafts of every size cost the target, and which size pays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from specdec.control.costs import PassCosts

MARGIN = 1.03  # speculation must promise so many times plain decoding's tokens per second


@dataclass(frozen=True)
class Sizes:
    """Of passes over `rows` texts with `keys` tokens in all, with 0, 1, 2 ... draft nodes a row.

    seconds: entry n, of a pass with n. slopes: entry n, the least that a node more costs on average
    if some number of them is added, since passes may cost the same up to a knee.
    """

    rows: int
    keys: int
    seconds: list[float]

    @classmethod
    def of(cls, costs: PassCosts, rows: int, keys: int, most: int) -> Sizes:
        """For up to `most` draft nodes a row."""
        return cls(rows, keys, costs.curve([rows * n for n in range(1, most + 2)], keys))

    @cached_property
    def slopes(self) -> list[float]:
        """The lower hull of `seconds` knows them: seen from an entry, the flattest way up leads to
        its next corner."""
        slopes, corners = [math.inf], [len(self.seconds) - 1]
        for n in range(len(self.seconds) - 2, -1, -1):

            def rise(to: int, n: int = n) -> float:
                return (self.seconds[to] - self.seconds[n]) / (to - n)

            while len(corners) > 1 and rise(corners[-2]) <= rise(corners[-1]):
                corners.pop()
            slopes.append(rise(corners[-1]))
            corners.append(n)
        return slopes[::-1]

    @cached_property
    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`seconds` and `slopes`, as compiled code reads them.

        With n draft nodes, from which a row is expected to emit so many tokens, more nodes of at
        most some chance can raise its tokens per second where
        chance * seconds[n] > tokens * slopes[n].
        """
        return np.array(self.seconds), np.array(self.slopes)

    def best(self, chances: Sequence[Sequence[float]]) -> int:
        """How many draft nodes a row give the most tokens per second; 0 is a plain step.

        chances: per row, of its nodes being accepted, falling. A draft must promise `MARGIN` times
        what the plain step does.
        """
        best, best_rate = 0, MARGIN * self.rows / self.seconds[0]
        tokens = float(self.rows)
        for size in range(1, min(len(self.seconds), 1 + max(map(len, chances)))):
            tokens += sum(row[size - 1] for row in chances if len(row) >= size)
            if tokens / self.seconds[size] > best_rate:
                best, best_rate = size, tokens / self.seconds[size]
        return best
