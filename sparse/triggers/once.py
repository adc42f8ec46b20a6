"""Once: what was selected for a prompt stands for as long as its text is written (SnapKV)."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.sparse.triggers.base import Moment


@dataclass(frozen=True)
class Once:
    """Due only where all was read before."""

    looks = False

    def is_due(self, moment: Moment) -> bool:
        return moment.is_whole and moment.age > 0
