"""`triforce` (arXiv 2404.11912): a tiny drafter, the target on chunks, the full target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from specdec.drafts.methods.model import ModelOptions
from specdec.drafts.methods.ngram import NGramOptions
from specdec.drafts.methods.self_draft import DraftWeights
from specdec.sparse.methods.streaming import Streaming
from specdec.sparse.methods.triforce_chunks import TriForceChunks

if TYPE_CHECKING:
    from specdec.decoding.drafter import Drafter
    from specdec.decoding.speculative import Speculative
    from specdec.model.target import Target

DEPTH = 6  # draft tokens for the full target in a round
INNER_DEPTH = 2  # draft tokens of a small model for one middle pass


@dataclass(frozen=True)
class TriForce(DraftWeights, ModelOptions, NGramOptions, TriForceChunks):
    """Three levels; the middle one reads chunks of the target's own KV, `budget` tokens.

    The innermost is `draft_model` with a streaming cache if there is one, else n-grams.
    """

    family = "hierarchy"
    keeps = "as triforce-chunks, under a drafter with less"
    needs_model = False

    def drafter(self, target: Target) -> Speculative:
        from specdec.decoding.speculative import Speculative
        from specdec.drafts.model import ModelDrafter
        from specdec.drafts.ngram.drafter import NGramDrafter
        from specdec.model.target import Target as Model

        inner: Drafter
        if self.draft_model is not None:
            inner = ModelDrafter(target, replace(self, num_draft_tokens=INNER_DEPTH))
            inner.view = Streaming(budget=256, sink=16).view(self.draft_model)
        else:
            inner = NGramDrafter(target, replace(self, num_draft_tokens=None))
        model = self.model_of(target)
        middle = target if model is target.model else Model(model, borrowed=True)
        depth, follows = self.num_draft_tokens or DEPTH, self.num_draft_tokens is None
        return Speculative(
            "triforce", middle, self.view(target), inner, target.vocab_size, depth,
            shares_kv=True, follows=follows,
        )  # fmt: skip
