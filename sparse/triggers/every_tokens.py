"""EveryTokens: what was selected stands until a window of text is full (LazyEviction's lag)."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.errors import InvalidArgument
from specdec.sparse.triggers.base import Moment


@dataclass(frozen=True)
class EveryTokens:
    """Due when `tokens` tokens have been committed since."""

    tokens: int
    looks = False

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise InvalidArgument(f"refresh by tokens={self.tokens}: give at least one")

    def is_due(self, moment: Moment) -> bool:
        return moment.age > 0 and (moment.is_whole or moment.tokens >= self.tokens)
