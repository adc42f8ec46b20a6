"""TailState: what stands for old tokens in constant memory, and where those of a level are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from specdec.cache.level import Level


class TailState(Protocol):
    """Of the tokens `first .. end` of one row in one layer."""

    end: int

    @property
    def nbytes(self) -> int: ...

    def update(self, k: Tensor, v: Tensor, first: int, end: int, scale: float) -> None:
        """Take up, in place, the tokens up to `end` of `k, v[Hkv, capacity, D]`; where fewer are
        asked for than it has, or others, it begins anew."""

    def attend(self, q: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Attention over them and the log of their mass for `q[H, N, D]`: `[H, N, Dv]`, `[H, N]`;
        scale: of logits, as in `update`."""


@dataclass(frozen=True)
class TailKind:
    """What states of a layer are told apart by: where they begin, and what they are made of."""

    layer: int
    sink: int
    recent: int
    features: int | None


@dataclass(eq=False)
class TailStates:
    """The states of a level's rows, of one kind: a `Beside`."""

    make: Callable[[], TailState]
    rows: dict[int, TailState] = field(default_factory=dict)

    @classmethod
    def of(cls, level: Level, kind: TailKind, make: Callable[[], TailState]) -> TailStates:
        """Those that are kept beside a level, from the first call."""
        known = level.beside.setdefault(kind, cls(make))
        assert isinstance(known, cls)
        return known

    def row(self, row: int) -> TailState:
        if row not in self.rows:
            self.rows[row] = self.make()
        return self.rows[row]

    @property
    def nbytes(self) -> int:
        return sum(state.nbytes for state in self.rows.values())

    def crop(self, row: int, length: int) -> None:
        if row in self.rows and (length < self.rows[row].end or not length):
            del self.rows[row]
