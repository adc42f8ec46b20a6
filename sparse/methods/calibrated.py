"""Calibrated: a method that goes by what was measured of the model's heads or layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from specdec.method import option
from specdec.option_kinds import Anything
from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.calibrations.calibration import Calibration


@dataclass(frozen=True)
class Calibrated(PageBudget):
    """`calibration` may be a `Calibration`, too, which is what it becomes once it is resolved."""

    measure: ClassVar[str] = ""  # its name in `calibrations.finding.MEASURES`

    calibration: Any = option(
        "auto", "What was measured of the model: 'auto' (comes with the package, or is measured at "
        "the first use and kept in the cache folder), or a file of `specdec calibrate`.",
        Anything(),
    )  # fmt: skip

    def resolved(self, target: Target, tokenizer: Any) -> Calibrated:
        return replace(self, calibration=self.measured(target, tokenizer))

    def measured(self, target: Target, tokenizer: Any = None) -> Calibration:
        """The calibration of a model. Raises InvalidArgument for another model's."""
        from specdec.sparse.calibrations.finding import calibration_of

        return calibration_of(target, self.measure, self.calibration, tokenizer)
