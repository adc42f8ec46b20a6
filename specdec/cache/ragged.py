"""Ragged: rooms for rows of unlike lengths, so that one long text does not make all rows long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WORTH = 0.75  # of the slots of equal rows; two levels are read where one was


@dataclass(frozen=True)
class Room:
    """Tokens that one row wants: of its prompt, and in all."""

    prompt: int
    whole: int


@dataclass(frozen=True)
class Ragged:
    """Where the prompts of a batch go: those of `long` rows into a level of their own, with one
    more row, empty, that all others read of it; everything else into a level with all rows.

    prompts, capacity: slots of a row in the first and in the second level; slots: of both levels.
    """

    long: tuple[int, ...]
    prompts: int
    capacity: int
    slots: int


def cut(rooms: Sequence[Room]) -> Ragged:
    """The cheapest way; with nothing `long` where equal rows are about as cheap."""
    count = len(rooms)
    whole = max(room.whole for room in rooms)
    best = Ragged((), 0, whole, count * whole)
    limit = WORTH * best.slots
    order = sorted(range(count), key=lambda row: (-rooms[row].prompt, row))
    # What a row wants in the second level: all of it, or what comes behind its prompt.
    rest = [0] * (count + 1)
    for place in reversed(range(count)):
        rest[place] = max(rest[place + 1], rooms[order[place]].whole)
    prompts, behind = rooms[order[0]].prompt, 0
    for place, row in enumerate(order[:-1]):
        behind = max(behind, rooms[row].whole - rooms[row].prompt)
        capacity = max(behind, rest[place + 1])
        slots = (place + 2) * prompts + count * capacity
        if slots < min(limit, best.slots):
            best = Ragged(tuple(sorted(order[: place + 1])), prompts, capacity, slots)
    return best
