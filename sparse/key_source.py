"""KeySource: where keys of selected pages come from, if they are not read."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from specdec.forward.forward_pass import ForwardPass
from specdec.forward.layout import Segments
from specdec.forward.plan import KeysBesides


class KeySource(Protocol):
    """Gives keys of a text's selected pages."""

    def of(self, pass_: ForwardPass, layer: int, x: Segments, exact: Tensor) -> KeysBesides:
        """Those of one sequence in one layer, of all its full pages; exact: see `KeysBesides`."""
