"""Locret (arXiv 2410.01805): tokens by what small trained networks foretell of each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specdec.sparse.methods.calibrated import Calibrated

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class Locret(Calibrated):
    """The last 100 tokens are always kept, as in the paper. Retaining heads come with the package
    for the demo model; those of others are trained at the first use, or by `specdec calibrate`."""

    paper = "2410.01805"
    family = "prefill scorer"
    keeps = "tokens that trained heads foretell to matter"
    measure = "locret"

    sink: int = 0
    recent: int = 100
    refresh: str | int = "prompt"

    def measured(self, target: Target, tokenizer: Any = None) -> Any:
        from specdec.sparse.calibrations.finding import retaining_heads_of

        return retaining_heads_of(target, self.calibration, tokenizer)

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.importances.retained import Retained
        from specdec.sparse.maths.key_rotation import KeyRotation

        retained = Retained(self.measured(target), KeyRotation.of(target, "locret"))
        return self.policy("locret", target, importance=retained)
