"""QueryTurn: anew when the query's direction jumps (LouisKV, arXiv 2510.11292)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cosine_similarity

from specdec.errors import InvalidArgument
from specdec.sparse.triggers.base import Moment


@dataclass(frozen=True)
class QueryTurn:
    """Due where neighbouring passes' queries are less alike than `threshold`.

    The paper tunes it for each model: 0.7 for Qwen3-8B; `turn_threshold` finds one by a text.
    and_rounds: due in each new round as well.
    """

    threshold: float = 0.7
    and_rounds: bool = False
    looks = True

    def __post_init__(self) -> None:
        if not -1 <= self.threshold <= 1:
            raise InvalidArgument(f"turn={self.threshold!r} is no cosine: give -1 to 1")

    def is_due(self, moment: Moment) -> bool:
        if moment.age > 0 and (moment.is_whole or self.and_rounds):
            return True
        if moment.is_whole:
            return False
        if moment.q is None or moment.before is None:
            return False
        return float(likeness(moment.before, moment.q[:, None])) < self.threshold


def likeness(before: Tensor, q: Tensor) -> Tensor:
    """How alike each query is to the one before it, `[n]`: the mean over query heads of their
    cosine. before: `[H, D]`, what came before the first of `q[H, n, D]`."""
    prior = q.roll(1, dims=1)
    prior[:, 0] = before
    return cosine_similarity(prior, q, dim=-1).mean(dim=0)


def turn_threshold(q: Tensor, share: float = 0.2) -> float:
    """tau: the likeness that a `share` of neighbours among queries `q[H, n, D]` stay below.

    The paper sets tau by hand for each model, 0.7 for Qwen3-8B. Here it is a quantile of the text
    at hand, so that about every fifth step selects anew: neighbouring steps share more than 0.8 of
    a selection, says the paper.
    """
    if q.shape[1] < 2:
        return 1.0
    alike = likeness(q[:, 0], q[:, 1:])
    return float(alike.double().quantile(share))
