"""Text: nothing of an image."""

from __future__ import annotations

from specdec.drafts.longspec.rotary import Rotary
from specdec.drafts.specvlm.branches.base import Branch
from specdec.drafts.specvlm.image import Entries, Image


class Text(Branch):
    """No entries: a drafter that knows the text alone, the fifth branch of SpecVLM's gate."""

    turns = False

    def forward(self, image: Image, tokens: int, rotary: Rotary) -> Entries:
        """Entries of no length."""
        empty = image.k.new_zeros(image.k.shape[0], 0).float()
        return Entries(image.k[:, :, :0], image.v[:, :, :0], empty)
