"""Recurrence: whether a token is overdue against its own gaps (LazyEviction, arXiv 2506.15969)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.errors import InvalidArgument
from specdec.sparse.importances.base import Observed, Statistics, grown

FORMS = ("code", "paper")


@dataclass(frozen=True)
class Recurrence:
    """A token is used where the greatest attention in its group is at least `threshold`.

    last[h, t]: the position where it was last used, its own at first. gap[h, t]: the widest
    interval between uses, 0 at first. With age = length - last, the score is h1 + h2:

        code:  h1 = 2 sigmoid(-1 - age / (gap + 1e-5)),  h2 = 2 sigmoid(1 - gap), 0 where gap = 0
        paper: h1 = 2 sigmoid(-age / gap),               h2 = 2 sigmoid(-1 / gap)

    The paper says that smaller gaps rank higher, which only the released code's h2 does, so that is
    the default. Both numbers are int32: the code keeps them in the attention's precision, where
    bfloat16 rounds positions above 256. `threshold` 1e-4 is the code's.
    """

    threshold: float = 1e-4
    form: str = "code"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise InvalidArgument(f"form={self.form!r}: give one of {FORMS}")

    @property
    def key(self) -> str:
        return f"recurrence-{self.threshold}"

    def begin(self, heads: int, like: Tensor) -> Statistics:
        """Last use and widest gap, `int32[Hkv, T]`."""
        none = torch.zeros(heads, 0, dtype=torch.int32, device=like.device)
        return none, none

    def update(self, statistics: Statistics, seen: Observed) -> Statistics:
        mass = seen.mass.amax(dim=1)  # [Hkv, n, T]
        (last, gap), (heads, _, tokens) = statistics, mass.shape
        born = torch.arange(last.shape[1], tokens, dtype=torch.int32, device=mass.device)
        last = torch.cat([last, born.expand(heads, -1)], dim=1)
        gap = grown(gap, tokens)
        positions = seen.positions.to(mass.device)[:, None]
        used = mass >= self.threshold
        used &= torch.arange(tokens, device=mass.device) <= positions
        at = torch.where(used, positions, last[:, None])
        before = torch.cat([last[:, None], at.cummax(dim=1).values], dim=1)
        gaps = torch.where(used, positions - before[:, :-1], 0)
        return before[:, -1], torch.maximum(gap, gaps.amax(dim=1))

    def scores(self, statistics: Statistics, length: int) -> Tensor:
        last, gap = (x.float() for x in statistics)
        age = length - last
        if self.form == "paper":
            overdue = torch.where(gap > 0, age / gap, torch.inf)
            return 2 * torch.sigmoid(-overdue) + 2 * torch.sigmoid(-1 / gap)
        first = 2 * torch.sigmoid(-1 - age / (gap + 1e-5))
        return first + torch.where(gap > 0, 2 * torch.sigmoid(1 - gap), 0.0)
