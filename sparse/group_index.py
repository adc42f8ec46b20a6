"""GroupIndex: what a grouping keeps of one row's closed groups, beside the store's level."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from torch import Tensor

from specdec.cache.level import Level
from specdec.sparse.groupings.base import Grouping, Lines, Stretch


class GroupIndex:
    """The parts of one row in one layer, from its first token on without a gap.

    `update` takes up parts that have closed, `crop` forgets those that hold tokens which were taken
    back. The open end is never in it, so nothing that may still change is (Invariant 2).
    """

    def __init__(self) -> None:
        self.ends: list[int] = []
        self._behind: list[tuple[int, ...]] = []  # lines of each tensor, up to each part's end
        self._held: list[Tensor] = []

    @property
    def covered(self) -> int:
        """Tokens in groups."""
        return self.ends[-1] if self.ends else 0

    @property
    def lines(self) -> Lines:
        """The lines of all parts."""
        behind = self._behind[-1] if self._behind else ()
        return tuple(x[:, :n] for x, n in zip(self._held, behind, strict=False))

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self.lines)

    def crop(self, length: int) -> None:
        """Forget parts that end at `length` or behind it: the token behind a part may have closed
        it, and another one may come there."""
        self._keep(bisect_left(self.ends, length))

    def update(self, grouping: Grouping, at: Stretch) -> int:
        """Take up what has closed, in place; returns how many tokens are in groups."""
        wanted = grouping.ends(at, self.ends)
        pairs = enumerate(zip(wanted, self.ends, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), min(len(wanted), len(self.ends)))
        self._keep(same)
        for end in wanted[same:]:
            self._append(grouping.lines(at, self.covered, end), end)
        return self.covered

    def _keep(self, parts: int) -> None:
        del self.ends[parts:], self._behind[parts:]

    def _append(self, fresh: Lines, end: int) -> None:
        """Put the lines of a part behind the others, in buffers that double."""
        before = self._behind[-1] if self._behind else (0,) * len(fresh)
        self._held = self._held or [x[:, :0] for x in fresh]
        for i, (x, start) in enumerate(zip(fresh, before, strict=True)):
            need, held = start + x.shape[1], self._held[i]
            if held.shape[1] < need:
                grown = x.new_empty(x.shape[0], max(need, 2 * start), *x.shape[2:])
                grown[:, :start] = held[:, :start]
                held = self._held[i] = grown
            held[:, start:need] = x
        self.ends.append(end)
        self._behind.append(tuple(a + x.shape[1] for a, x in zip(before, fresh, strict=True)))


@dataclass
class GroupIndices:
    """All that a grouping keeps beside a level, by row, and by layer in it: a `Beside`."""

    rows: dict[int, dict[int, GroupIndex]] = field(default_factory=dict)

    @classmethod
    def of(cls, level: Level, grouping: Grouping) -> GroupIndices:
        """That of a grouping beside a level, empty at first."""
        known = level.beside.setdefault(f"groups {grouping.key}", cls())
        assert isinstance(known, cls)
        return known

    def index(self, row: int, layer: int) -> GroupIndex:
        """That of a row in a layer, empty at first."""
        return self.rows.setdefault(row, {}).setdefault(layer, GroupIndex())

    @property
    def nbytes(self) -> int:
        return sum(index.nbytes for layers in self.rows.values() for index in layers.values())

    def crop(self, row: int, length: int) -> None:
        if not length:
            self.rows.pop(row, None)
        for index in self.rows.get(row, {}).values():
            index.crop(length)
