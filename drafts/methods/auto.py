"""`auto`: whoever brings the most tokens per second at the moment, or nobody."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.drafts.methods.draft_model import DraftModel
from specdec.drafts.methods.ngram import NGramOptions
from specdec.drafts.methods.tree_size import PathBound


@dataclass(frozen=True)
class AutoOptions(PathBound, DraftModel, NGramOptions):
    """`num_draft_tokens` bounds the length of drafts, `draft_width` fixes the nodes per level."""

    path = "specdec.drafts.auto.drafter:AutoDrafter"
