"""DraftModel: the option of drafters that run another model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from specdec.method import DrafterMethod, option
from specdec.option_kinds import Anything


@dataclass(frozen=True)
class DraftModel(DrafterMethod):
    """Named, or handed over; when the drafter is made it is a `Target`."""

    draft_model: Any = option(
        None, "A smaller model with the same token ids: a folder, hub id, .gguf file, loaded "
        "transformers model, or 'demo'; for `longspec`, its checkpoint.", Anything("MODEL"),
    )  # fmt: skip
