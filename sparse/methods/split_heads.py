"""SplitHeads: retrieval heads read everything, the others the first and the last tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from specdec.method import option
from specdec.option_kinds import Tokens
from specdec.sparse.methods.calibrated import Calibrated

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class SplitHeads(Calibrated):
    """The budget is that of a streaming head, and the length up to which a text is read whole.

    Streaming heads read what came since the last selection, too: they are cut again every 32 rounds
    unless `refresh` says otherwise.
    """

    refresh: str | int = 32
    recent: int = option(None, "Last tokens that are always read; all the budget that sink leaves.",
                         Tokens())  # fmt: skip

    def split(self, name: str, target: Target, far: list[list[bool]], **more: Any) -> SparseView:
        """The view where `far` are the retrieval heads of each layer; [] for a sliding window."""
        from specdec.sparse.plans.head_plan import HeadPlan

        plan = HeadPlan(tuple(map(tuple, far)))
        plan.check(target)
        recent = max(0, self.budget - self.sink - 1) if self.recent is None else self.recent
        return replace(self, recent=recent).policy(name, target, heads=plan, **more)
