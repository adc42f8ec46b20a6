"""`block`: a Block Transformer that shares the target's tokens (arXiv 2406.02657)."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.drafts.methods.draft_model import DraftModel
from specdec.method import option
from specdec.option_kinds import Whole


@dataclass(frozen=True)
class BlockOptions(DraftModel):
    """Its `draft_model` is a folder with a Block Transformer."""

    paper = "2406.02657"
    family = "trained drafter"
    keeps = "a state for each block of tokens, and the tokens of one block"

    path = "specdec.drafts.block.drafter:BlockDrafter"
    needs_model = True
    own_format = True

    num_draft_tokens: int = option(
        8, "Depth of the deepest draft token of a round: two blocks of the released models.",
        Whole(),
    )  # fmt: skip
