"""`longspec`: a trained block that reads the target's own KV (LongSpec, arXiv 2502.17421)."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.drafts.methods.draft_model import DraftModel
from specdec.drafts.methods.tree_size import GrownTree


@dataclass(frozen=True)
class LongSpecOptions(DraftModel, GrownTree):
    """Its `draft_model` is a checkpoint of `specdec train-drafter`."""

    paper = "2502.17421"
    family = "trained drafter"
    keeps = "the target's own keys and values, and a window of its own"

    path = "specdec.drafts.longspec.drafter:LongSpec"
    own_format = True
