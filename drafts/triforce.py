"""TriForce (arXiv 2404.11912): a tiny drafter, the target on retrieved chunks, the full target."""

from __future__ import annotations

from dataclasses import replace

from specdec.decoding.drafter import Drafter
from specdec.decoding.options import DraftOptions
from specdec.decoding.speculative import Speculative
from specdec.drafts.model import ModelDrafter
from specdec.drafts.ngram.drafter import NGramDrafter
from specdec.model.draft_weights import low_precision
from specdec.model.target import Target
from specdec.registry import VIEWS

DEPTH = 6  # draft tokens for the full target in a round
INNER_DEPTH = 2  # draft tokens of a small model for one middle pass


def triforce(target: Target, options: DraftOptions) -> Speculative:
    """Three levels; the middle one reads chunks of the target's own KV, `options.budget` tokens.

    The innermost is `draft_model` with a streaming cache if there is one, else n-grams.
    """
    inner: Drafter
    if options.draft_model is not None:
        inner = ModelDrafter(target, replace(options, num_draft_tokens=INNER_DEPTH))
        inner.view = VIEWS["streaming"].load()(
            options.draft_model, DraftOptions(budget=256, sink=16)
        )
    else:
        inner = NGramDrafter(target, replace(options, num_draft_tokens=None))
    middle = VIEWS["triforce-chunks"].load()(target, options)
    middle_model = target
    if options.draft_weights is not None:
        model = low_precision(target.model, target.packing, options.draft_weights)
        middle_model = Target(model, borrowed=True)
    depth = options.num_draft_tokens or DEPTH
    return Speculative(
        "triforce", middle_model, middle, inner, target.vocab_size, depth, shares_kv=True
    )
