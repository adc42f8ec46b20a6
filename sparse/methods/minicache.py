"""MiniCache (arXiv 2405.14366): two neighbouring deep layers as one direction and two lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Number, OneOf
from specdec.sparse.methods.coded import Coded

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.codecs.coded_view import CodedView

BLOCK = 64  # tokens among which those to retain are chosen
GROUP = 64  # channels that share a scale, where directions are kept in few bits


@dataclass(frozen=True)
class MiniCache(Coded):
    """Pairs from the middle of the model on; the layers below read everything.

    No code was released, and the interpolation and retention are the paper's as we know them.
    """

    paper = "2405.14366"
    keeps = "every token; of two deep layers one direction"

    interpolation: float = option(
        0.6, "Where on the arc between the two layers' directions the shared one is.",
        Number(0.0, 1.0),
    )  # fmt: skip
    retained: float = option(
        0.05, "Share of tokens kept as they are, by how far the two layers differ.",
        Number(0.0, 1.0),
    )  # fmt: skip
    latent_bits: int = option(16, "Bits of what is kept; 16 keeps it as it is.", OneOf(2, 4, 8, 16))

    def view(self, target: Target) -> CodedView:
        from specdec.errors import UnsupportedModel
        from specdec.sparse.codecs.codec import TwoSides
        from specdec.sparse.codecs.grouped import CHANNELS, Grouped
        from specdec.sparse.codecs.paired import Paired
        from specdec.sparse.codecs.plain import Plain

        layers = target.full_layers
        if len(layers) < 2:
            raise UnsupportedModel(
                f"view 'minicache' keeps pairs of layers as one, and this model has {len(layers)} "
                "that see all of a text"
            )
        deep = [layer for layer in layers if layer >= target.num_layers // 2]
        deep = deep if len(deep) > 1 else layers[-2:]
        pairs = [tuple(deep[i : i + 2]) for i in range(0, len(deep) - 1, 2)]
        groups = {layer: pair for pair in pairs for layer in pair}
        kept = Plain() if self.latent_bits == 16 else Grouped(self.latent_bits, GROUP, CHANNELS)
        side = Paired(kept, self.interpolation, self.retained)
        return self.coded("minicache", target, TwoSides(side, side, BLOCK), groups)
