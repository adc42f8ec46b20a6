"""Cascade: the draft model drafts, and n-grams draft for the draft model."""

from __future__ import annotations

from dataclasses import replace

from specdec.decoding.options import DraftOptions
from specdec.decoding.speculative import Speculative
from specdec.drafts.model import DEPTH
from specdec.drafts.ngram.drafter import NGramDrafter
from specdec.forward.full_view import FullView
from specdec.model.target import Target


def cascade(target: Target, options: DraftOptions) -> Speculative:
    """Three levels: n-gram proposes to `draft_model`, whose own text is proposed to the target."""
    model = options.draft_model
    assert isinstance(model, Target)
    inner = NGramDrafter(model, replace(options, num_draft_tokens=None))
    depth = options.num_draft_tokens or 2 * DEPTH
    return Speculative("cascade", model, FullView(), inner, target.vocab_size, depth)
