"""Spellings of the option `refresh`: words and numbers that stand for triggers."""

from __future__ import annotations

from specdec.errors import InvalidArgument
from specdec.sparse.triggers.base import Trigger
from specdec.sparse.triggers.every_pass import EveryPass
from specdec.sparse.triggers.every_rounds import EveryRounds
from specdec.sparse.triggers.falling import Falling
from specdec.sparse.triggers.once import Once
from specdec.sparse.triggers.query_turn import QueryTurn

TRIGGERS: dict[str, Trigger] = {
    "pass": EveryPass(),
    "round": EveryRounds(1),
    "falling": Falling(),
    "prompt": Once(),
    "turn": QueryTurn(),
}


def trigger_of(refresh: str | int | Trigger) -> Trigger:
    """The trigger that a word stands for; a number means every so many rounds."""
    if isinstance(refresh, str):
        if refresh in TRIGGERS:
            return TRIGGERS[refresh]
    elif isinstance(refresh, int):
        if refresh >= 1 and not isinstance(refresh, bool):
            return EveryRounds(refresh)
    else:
        return refresh
    raise InvalidArgument(f"refresh={refresh!r}: give {tuple(TRIGGERS)} or a number of rounds")
