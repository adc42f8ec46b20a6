"""`none`: plain decoding, one token a pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import DrafterMethod

if TYPE_CHECKING:
    from specdec.drafts.none import NoDrafter


@dataclass(frozen=True)
class NoDraft(DrafterMethod):
    """It has no options."""

    def drafter(self, target: object) -> NoDrafter:
        from specdec.drafts.none import NoDrafter

        return NoDrafter()
