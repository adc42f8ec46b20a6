"""ViewState: what a view keeps from pass to pass, for as long as the store lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from specdec.cache.cached_tokens import CachedTokens
from specdec.forward.plan import Selection
from specdec.forward.query_recorder import QueryRecorder
from specdec.forward.view_reads import ReadStats


@dataclass(frozen=True, eq=False)
class Divided:
    """A view's budget as a round divided it: tokens of each layer, by layer, one number or one for
    each KV head."""

    round: int
    tokens: dict[int, int | Tensor]


class StaticState(Protocol):
    """What is kept of all sequences in the device's memory, by the view that reads it there."""

    def forget(self, sequence: int) -> None: ...


@dataclass
class SequenceState:
    """Of one sequence under a view.

    selections: by anchor layer; last_queries: those `[H, D]` of the last pass's last node,
    likewise, where the view goes by how they turn. reads: what sparse passes read, once there were
    some. budgets: how the view's budget was last divided among layers. is_falling: acceptance is.
    """

    selections: dict[int, Selection] = field(default_factory=dict)
    last_queries: dict[int, Tensor] = field(default_factory=dict)
    reads: ReadStats | None = None
    budgets: Divided | None = None
    is_falling: bool = False


@dataclass
class ViewState:
    """Of one model under one view.

    sequences: what is kept of each. held: the committed tokens of each, where the store's owner
    knows them. queries: those of the verifying model, if it keeps any. static: selections of static
    passes, in the device's memory.
    """

    sequences: dict[int, SequenceState] = field(default_factory=dict)
    held: Sequence[CachedTokens] = ()
    queries: QueryRecorder | None = None
    static: StaticState | None = None

    def of(self, sequence: int) -> SequenceState:
        """What is kept of a sequence, from the first time somebody asks."""
        return self.sequences.setdefault(sequence, SequenceState())

    def forget(self, sequence: int) -> None:
        """Nothing is left of a sequence whose slot is released."""
        self.sequences.pop(sequence, None)
        if self.static is not None:
            self.static.forget(sequence)

    def reads_of(self, sequence: int) -> ReadStats:
        """The counts of a sequence, from the first time somebody asks."""
        mine = self.of(sequence)
        mine.reads = mine.reads or ReadStats()
        return mine.reads
