"""ViewState: what a view keeps from pass to pass, for as long as the store lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from specdec.cache.cached_tokens import CachedTokens
from specdec.forward.plan import Selection
from specdec.forward.query_recorder import QueryRecorder
from specdec.forward.view_reads import ReadStats


@dataclass
class ViewState:
    """Of one model under one view, by sequence.

    selections: by (sequence, anchor layer); last_queries: those `[H, D]` of the last pass's last
    node, likewise, where the view goes by how they turn. reads: what sparse passes read. budgets:
    how a view's budget was last divided among layers, by sequence. held: the committed tokens of
    each sequence, where the store's owner knows them. falling: of which acceptance is falling.
    queries: those of the verifying model, if it keeps any.
    static: selections of static passes, in the device's memory.
    """

    selections: dict[tuple[int, int], Selection] = field(default_factory=dict)
    last_queries: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    reads: dict[int, ReadStats] = field(default_factory=dict)
    budgets: dict[int, Any] = field(default_factory=dict)
    held: Sequence[CachedTokens] = ()
    falling: set[int] = field(default_factory=set)
    queries: QueryRecorder | None = None
    static: Any = None

    def forget(self, sequence: int) -> None:
        """Nothing is left of a sequence whose slot is released."""
        kept: dict[tuple[int, int], Any]
        for kept in (self.selections, self.last_queries):
            for key in [key for key in kept if key[0] == sequence]:
                del kept[key]
        self.reads.pop(sequence, None)
        self.budgets.pop(sequence, None)
        self.falling.discard(sequence)
        if self.static is not None:
            self.static.forget(sequence)

    def reads_of(self, sequence: int) -> ReadStats:
        """The counts of a sequence, from the first time somebody asks."""
        return self.reads.setdefault(sequence, ReadStats())
