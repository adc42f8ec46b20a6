"""FullView: a pass that reads every key, the target's own law."""

from __future__ import annotations

from collections.abc import Hashable

from specdec.forward.forward_pass import ForwardPass
from specdec.forward.pass_ahead import PassAhead
from specdec.forward.plan import WHOLE, LayerPlan, Needs


class FullView:
    """All committed keys of every level, and the staged nodes through their ancestor mask."""

    name = "full"
    lossless = True
    reads: int | None = None
    needs = Needs()

    def plan(self, pass_: ForwardPass, layer: int, window: int | None) -> LayerPlan:
        """Everything."""
        return WHOLE

    def prepare(self, ahead: PassAhead) -> Hashable | None:
        """Nothing: static passes read the store's levels alone."""
        return self.name
