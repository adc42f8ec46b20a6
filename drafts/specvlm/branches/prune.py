"""Prune: one of neighbouring tokens for all of them."""

from __future__ import annotations

from specdec.drafts.longspec.rotary import Rotary
from specdec.drafts.specvlm.branches.base import Branch
from specdec.drafts.specvlm.image import Entries, Image, groups, weights


class Prune(Branch):
    """Keeps the middle one of each group of neighbours, with its own key, value and place.

    The paper drops tokens at random (SpecVLM, arXiv 2509.11815, which finds 2 to 20 times equally
    good); evenly spaced ones are the same for every seed, so a prompt has one acceptance.
    """

    turns = False

    def forward(self, image: Image, tokens: int, rotary: Rotary) -> Entries:
        """k, v of the chosen tokens, and the logarithm of how many each stands for."""
        sizes = groups(image.k.shape[2], tokens)
        ends = sizes.cumsum(0)
        chosen = (ends - 1 - (sizes - 1) // 2).to(image.k.device)
        return Entries(image.k[:, :, chosen], image.v[:, :, chosen], weights(sizes, image.k))
