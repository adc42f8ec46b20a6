"""`full`: the target's own law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import ViewMethod

if TYPE_CHECKING:
    from specdec.forward.full_view import FullView


@dataclass(frozen=True)
class Full(ViewMethod):
    """Every key, so there is nothing to choose."""

    family = "full"
    keeps = "everything"

    def view(self, target: object) -> FullView:
        from specdec.forward.full_view import FullView

        return FullView()
