"""Branch: a way to make images small."""

from __future__ import annotations

from torch import nn

from specdec.drafts.longspec.rotary import Rotary
from specdec.drafts.specvlm.image import Entries, Image, ImageSizes


class Branch(nn.Module):
    """Makes entries of images; what it has learned are its parameters.

    is_trained: whether it is of use only with weights from a checkpoint. turns: whether it mixes
    keys of several places, which one dimension of positions is needed for.
    """

    is_trained = False
    turns = True

    def __init__(self, sizes: ImageSizes) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, image: Image, tokens: int, rotary: Rotary) -> Entries:
        """At most `tokens` entries for each image, however many tokens it has."""
        raise NotImplementedError
