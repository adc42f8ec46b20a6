"""xKV (arXiv 2503.18893): neighbouring layers' keys and values by the directions they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Number, Whole
from specdec.sparse.methods.coded import Coded

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.codecs.coded_view import CodedView

BLOCK = 16  # ours: codes are of one token, so any will do


@dataclass(frozen=True)
class XKV(Coded):
    """The SVD of the prompt's keys before rotation, and of its values, over a group of layers.

    The shares are the paper's ranks 512 and 768 of the 4,096 channels of four layers of Llama 3.1
    8B. What is generated is read as it is, as in the paper. The SVD is by the eigenvectors of the
    second moments, of the prompt as far as it was there when the first draft was made.
    """

    paper = "2503.18893"
    keeps = "the prompt in directions that layers share"

    key_share: float = option(
        0.125, "Share of the directions of keys that is kept.", Number(0.01, 1.0)
    )
    value_share: float = option(
        0.1875, "Share of the directions of values that is kept.", Number(0.01, 1.0)
    )
    group_layers: int = option(4, "Layers that share their directions.", Whole(1, 64))

    def view(self, target: Target) -> CodedView:
        from specdec.sparse.codecs.codec import TwoSides
        from specdec.sparse.codecs.projected import Projected
        from specdec.sparse.codecs.unturned import Unturned
        from specdec.sparse.maths.key_rotation import KeyRotation

        rotation, layers = KeyRotation.of(target, "xkv"), target.full_layers
        size = self.group_layers
        groups = {
            layer: tuple(layers[first : first + size])
            for first in range(0, len(layers), size)
            for layer in layers[first : first + size]
        }
        keys, values = Projected(self.key_share), Projected(self.value_share)
        codec = TwoSides(Unturned(keys, rotation), values, BLOCK)
        return self.coded("xkv", target, codec, groups, prompt_only=True)
