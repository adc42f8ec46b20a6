"""EveryRounds: what was selected stands for so many rounds of speculation."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.errors import InvalidArgument
from specdec.sparse.triggers.base import Moment


@dataclass(frozen=True)
class EveryRounds:
    """Due when `rounds` rounds have passed, and in the next one where all was read."""

    rounds: int = 1
    looks = False

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InvalidArgument(f"refresh={self.rounds}: give at least one round")

    def is_due(self, moment: Moment) -> bool:
        return moment.age >= (1 if moment.is_whole else self.rounds)
