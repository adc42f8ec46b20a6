"""The target itself on a view: how every view is a drafter, too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from specdec.drafts.methods.tree_size import GrownTree
from specdec.method import DrafterMethod, ViewMethod, option
from specdec.option_kinds import OneOf, Whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from specdec.model.target import Target


@dataclass(frozen=True)
class DraftWeights(DrafterMethod):
    """Which weights a target reads when it drafts for itself."""

    draft_weights: str | None = option(
        None, "Read a copy of the weights in so many bits (on a CPU; it is made at the first call "
        "and kept); by default the weights themselves are read.", OneOf("int8", "int4"),
    )  # fmt: skip

    def model_of(self, target: Target) -> PreTrainedModel:
        """The target's model, with the weights that are asked for."""
        if self.draft_weights is None:
            return target.model
        from specdec.model.draft_weights import low_precision

        return low_precision(target.model, target.packing, self.draft_weights)


@dataclass(frozen=True)
class SelfDraftOptions(DraftWeights, GrownTree):
    """Its options, and those of the view that it is `on`."""

    path = "specdec.drafts.self_draft:SelfDraft"

    draft_layers: int | None = option(
        None, "Leave the model after so many layers; by default all are run.", Whole()
    )
    on: ViewMethod | None = None

    def resolved(self, target: Target, tokenizer: Any) -> SelfDraftOptions:
        assert self.on is not None
        return replace(self, on=self.on.resolved(target, tokenizer))
