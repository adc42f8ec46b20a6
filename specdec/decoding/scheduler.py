"""Scheduler: which rows are decoded: who waits for a slot, who goes on, who leaves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from specdec.decoding.asking import Asking
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.stats import Stats
from specdec.forward.rotation import Rotation
from specdec.forward.view_reads import ReadStats
from specdec.sampling.sequence import Row


@dataclass(frozen=True)
class Counted:
    """What was counted of a row: `reads` of sparse views, and `inner` drafters, by name."""

    reads: dict[str, ReadStats] = field(default_factory=dict)
    inner: dict[str, Stats] = field(default_factory=dict)


class Scheduler:
    """Rows come at any time, join when there is a slot for them, and leave when they are done.

    A row that joins is read by the verifying model and shown to the drafter. When it leaves both
    forget it, and its slot goes to whoever waits, in the order in which they came. All of this is
    done between rounds. A batch that is fixed adds all of its rows at once.

    slots: of rows at a time. counted: of rows that have left, what views read and what inner
    drafters did, by `row.index`; who has no more use for it takes it out.
    """

    def __init__(self, drafter: Asking, rotation: Rotation, slots: int) -> None:
        self.drafter, self.rotation, self.slots = drafter, rotation, slots
        self.waiting: deque[Row] = deque()
        self.active: list[Row] = []
        self.model: CachedModel | None = None
        self.counted: dict[int, Counted] = {}

    @property
    def is_busy(self) -> bool:
        """Whether a row is being decoded, or waits."""
        return bool(self.active or self.waiting)

    def add(self, rows: Sequence[Row]) -> None:
        """Rows that will join when there are slots for them."""
        self.waiting.extend(rows)

    @torch.inference_mode()
    def admit(self, open_model: Callable[[Sequence[Row]], CachedModel]) -> list[Row]:
        """Have those join that there are slots for; they are read. Before each round.

        open_model: makes the verifying model, with the rows that join first.
        Raises OutOfMemory, with all of them waiting still, where a slot is too small for one.
        """
        free = list(range(self.slots)) if self.model is None else self.model.store.free
        joining = list(self.waiting)[: len(free)]
        if not joining:
            return []
        for row, slot in zip(joining, free, strict=False):
            row.slot = slot
        if self.model is None:
            self.model = open_model(joining)
        else:
            self.model.join(joining)
        for _ in joining:
            self.waiting.popleft()
        self.active += joining
        self.drafter.join(joining, self.model)
        return joining

    def turn(self) -> list[Row]:
        """The rows of the next pass: all, unless the model turns some of them differently."""
        return self.rotation.together(self.active, [row.span for row in self.active])[0]

    @torch.inference_mode()
    def leave(self, rows: Sequence[Row]) -> None:
        """Rows that are done: their slots are free from now on."""
        gone = [row for row in rows if any(row is other for other in self.active)]
        if not gone:
            return
        assert self.model is not None
        for row in gone:
            reads = {**self.model.reads(row.slot), **self.drafter.reads(row)}
            self.counted[row.index] = Counted(reads, self.drafter.inner_stats(row))
        self.drafter.leave(gone)
        self.model.leave(gone)
        self.active = [row for row in self.active if not any(row is other for other in gone)]

    def cancel(self, row: Row) -> None:
        """Take a row out, whether it waits or is being decoded; its slot is free from now on."""
        if any(row is other for other in self.waiting):
            self.waiting = deque(other for other in self.waiting if other is not row)
        else:
            self.leave([row])
