"""Stage: the prompts of a batch as levels of a store, each stretch that several share once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from specdec.cache.prompt_tree import Branch
from specdec.cache.ragged import Room, cut


@dataclass(frozen=True)
class Piece:
    """Tokens `start .. end` of the texts in the slots `members`, which go to one row of a level.

    Those below `alike` are also tokens of slot `source`, which holds them by then.
    """

    row: int
    members: tuple[int, ...]
    start: int
    end: int
    source: int = -1
    alike: int = 0


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
    unit: int = 1,
) -> list[Stage]:
    """The levels for texts of `lengths` tokens, by slot; slots that have no text are made room for.

    rooms: tokens that each slot may come to hold, staged ones included. The last level has a row of
    its own for each slot. ragged: long stretches may have a level apart (`cut`). unit: levels begin
    at multiples of it; what a branch has beyond the last one stands with each of its members.
    """
    count, shared = len(rooms), dict.fromkeys(range(len(rooms)), 0)
    found: list[Stage] = []
    depths = sorted({branch.depth for branch in branches})
    for depth in depths:
        mine = []
        for branch in branches:
            start, end = shared[branch.members[0]], branch.end // unit * unit
            if branch.depth == depth and end > start:
                mine.append(replace(branch, start=start, end=end))
        sizes = [Room(x.end - x.start + 1, x.end - x.start + 1) for x in mine]
        apart = set(cut(sizes).long) if ragged and sizes else set()
        for some in (apart, set(range(len(mine))) - apart):
            parts = [(x.members, x.start, x.end) for i, x in enumerate(mine) if i in some]
            if parts:
                found.append(_stage(count, parts))
        for branch in mine:
            shared.update(dict.fromkeys(branch.members, branch.end))
    whole_units = {slot: length // unit * unit for slot, length in lengths.items()}
    left = [
        Room(max(0, whole_units.get(slot, 0) - shared[slot]), rooms[slot] - shared[slot])
        for slot in range(count)
    ]
    whole = max(room.whole for room in left)
    if ragged and (last := cut(left)).long:
        parts = [((slot,), shared[slot], whole_units[slot]) for slot in last.long]
        found.append(_stage(count, parts))
        shared.update({slot: whole_units[slot] for slot in last.long})
        whole = last.capacity
    own = tuple(
        Piece(slot, (slot,), shared[slot], end)
        for slot, end in sorted(lengths.items())
        if end > shared[slot]
    )
    return _with_sources([*found, Stage(count, whole, tuple(range(count)), own)], branches)


def _with_sources(stages: Sequence[Stage], branches: Sequence[Branch]) -> list[Stage]:
    """The stages, and of each piece which slot holds its first tokens before it is read."""
    held: dict[int, int] = {}
    found = []
    for stage in stages:
        pieces = []
        for piece in stage.pieces:
            ends = {
                other: min(branch.end, held[other], piece.end)
                for branch in branches
                if piece.members[0] in branch.members
                for other in branch.members
                if other in held and other not in piece.members
            }
            source = max(ends, key=lambda slot: ends[slot], default=-1)
            if source >= 0 and ends[source] > piece.start:
                piece = replace(piece, source=source, alike=ends[source])
            held.update(dict.fromkeys(piece.members, piece.end))
            pieces.append(piece)
        found.append(replace(stage, pieces=tuple(pieces)))
    return found


def _stage(count: int, parts: Sequence[tuple[tuple[int, ...], int, int]]) -> Stage:
    """A level with a row for each part, and an empty one if a slot has none of them."""
    pieces = tuple(Piece(row, *part) for row, part in enumerate(parts))
    row_map = [len(pieces)] * count
    for piece in pieces:
        for member in piece.members:
            row_map[member] = piece.row
    capacity = 1 + max(piece.end - piece.start for piece in pieces)
    return Stage(1 + max(row_map), capacity, tuple(row_map), pieces)
