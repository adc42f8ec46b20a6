"""Stage: the prompts of a batch as levels of a store, each stretch that several share once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from specdec.cache.prompt_tree import Branch
from specdec.cache.ragged import Room, cut


@dataclass(frozen=True)
class Piece:
    """Tokens `start .. end` of the texts in the slots `members`, which go to one row of a level."""

    row: int
    members: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Stage:
    """A level of `rows` rows: by slot the one that it reads, and what is to be read into them.

    A slot that has nothing here reads a row that stays empty.
    """

    rows: int
    capacity: int
    row_map: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def slots(self) -> int:
        """Places for tokens, of all rows."""
        return self.rows * self.capacity

    @property
    def leaders(self) -> list[int]:
        """By slot, the one for which is read what it reads here: its own, or another's."""
        found = list(range(len(self.row_map)))
        for piece in self.pieces:
            for member in piece.members:
                found[member] = piece.members[0]
        return found


def stages(
    branches: Sequence[Branch],
    lengths: Mapping[int, int],
    rooms: Sequence[int],
    ragged: bool,
) -> list[Stage]:
    """The levels for texts of `lengths` tokens, by slot; slots that have no text are made room for.

    rooms: tokens that each slot may come to hold, staged ones included. The last level has a row of
    its own for each slot. ragged: long stretches may have a level apart (`cut`).
    """
    count, shared = len(rooms), dict.fromkeys(range(len(rooms)), 0)
    found: list[Stage] = []
    depths = sorted({branch.depth for branch in branches})
    for depth in depths:
        mine = [branch for branch in branches if branch.depth == depth]
        sizes = [Room(x.end - x.start + 1, x.end - x.start + 1) for x in mine]
        apart = set(cut(sizes).long) if ragged else set()
        for some in (apart, set(range(len(mine))) - apart):
            parts = [(x.members, x.start, x.end) for i, x in enumerate(mine) if i in some]
            if parts:
                found.append(_stage(count, parts))
        for branch in mine:
            shared.update(dict.fromkeys(branch.members, branch.end))
    left = [
        Room(max(0, lengths.get(slot, 0) - shared[slot]), rooms[slot] - shared[slot])
        for slot in range(count)
    ]
    whole = max(room.whole for room in left)
    if ragged and (last := cut(left)).long:
        parts = [((slot,), shared[slot], lengths[slot]) for slot in last.long]
        found.append(_stage(count, parts))
        shared.update({slot: lengths[slot] for slot in last.long})
        whole = last.capacity
    own = tuple(
        Piece(slot, (slot,), shared[slot], end)
        for slot, end in sorted(lengths.items())
        if end > shared[slot]
    )
    return [*found, Stage(count, whole, tuple(range(count)), own)]


def _stage(count: int, parts: Sequence[tuple[tuple[int, ...], int, int]]) -> Stage:
    """A level with a row for each part, and an empty one if a slot has none of them."""
    pieces = tuple(Piece(row, *part) for row, part in enumerate(parts))
    row_map = [len(pieces)] * count
    for piece in pieces:
        for member in piece.members:
            row_map[member] = piece.row
    capacity = 1 + max(piece.end - piece.start for piece in pieces)
    return Stage(1 + max(row_map), capacity, tuple(row_map), pieces)
