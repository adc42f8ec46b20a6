"""`cascade`: the draft model drafts, and n-grams draft for the draft model: three levels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from specdec.drafts.methods.draft_model import DraftModel
from specdec.drafts.methods.ngram import NGramOptions

if TYPE_CHECKING:
    from specdec.decoding.speculative import Speculative
    from specdec.model.target import Target


@dataclass(frozen=True)
class Cascade(DraftModel, NGramOptions):
    """n-gram proposes to `draft_model`, whose own text is proposed to the target."""

    needs_model = True

    def drafter(self, target: Target) -> Speculative:
        from specdec.decoding.speculative import Speculative
        from specdec.drafts.model import DEPTH
        from specdec.drafts.ngram.drafter import NGramDrafter
        from specdec.forward.full_view import FullView

        model = self.draft_model
        inner = NGramDrafter(model, replace(self, num_draft_tokens=None))
        depth = self.num_draft_tokens or 2 * DEPTH
        return Speculative("cascade", model, FullView(), inner, target.vocab_size, depth)
