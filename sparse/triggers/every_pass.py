"""EveryPass: each pass selects for itself (Quest, Double Sparsity)."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.sparse.triggers.base import Moment


@dataclass(frozen=True)
class EveryPass:
    """Nothing stands longer than a pass."""

    looks = False

    def is_due(self, moment: Moment) -> bool:
        return True
