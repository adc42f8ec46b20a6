"""Pool: the mean of neighbouring tokens."""

from __future__ import annotations

from specdec.drafts.longspec.rotary import Rotary
from specdec.drafts.specvlm.branches.base import Branch
from specdec.drafts.specvlm.image import Entries, Image, groups, means


class Pool(Branch):
    """Average pooling (SpecVLM, arXiv 2509.11815): entry e is the mean of group e.

    Departure: what is averaged are the target's cached values and its keys, turned back to no place
    for it and turned again to the middle of the group; the paper averages embeddings.
    """

    def forward(self, image: Image, tokens: int, rotary: Rotary) -> Entries:
        """Means of at most `tokens` groups, as even as can be."""
        sizes = groups(image.k.shape[2], tokens)
        return image.made(means(image.features(rotary), sizes), sizes, rotary)
