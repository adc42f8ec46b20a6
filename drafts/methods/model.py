"""`model`: a smaller causal LM with the same token ids, as a chain or a tree."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.drafts.methods.draft_model import DraftModel
from specdec.drafts.methods.tree_size import GrownTree


@dataclass(frozen=True)
class ModelOptions(DraftModel, GrownTree):
    """Four tokens deep where nothing is said: what a 10 times smaller model can gain."""

    path = "specdec.drafts.model:ModelDrafter"
    needs_model = True
