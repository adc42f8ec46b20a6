"""X-EcoMLA's latent (arXiv 2503.11132) without its training: keys and values as one vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Number
from specdec.sparse.methods.coded import Coded

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.codecs.coded_view import CodedView

BLOCK = 16  # ours: codes are of one token, so any will do


@dataclass(frozen=True)
class XEcoMLA(Coded):
    """One latent of each token's keys before rotation and values, of all heads: z = P^T [k; v].

    The paper begins with the joint SVD of the weights [W_k; W_v] and then trains for billions of
    tokens, which makes rank 1/16 do; that is another model. This is its beginning alone, as a
    draft's copy: the SVD is of what the weights give on the text at hand, which holds for packed
    weights, biases and q/k norm as well, and all of a key is turned again when it is read, so none
    of its channels need stand apart for rotation. Without training it needs more rank.
    """

    paper = "2503.11132"
    keeps = "a joint latent of keys and values"

    latent_share: float = option(
        0.5, "Share of the directions of keys and values together that is kept.",
        Number(0.01, 1.0),
    )  # fmt: skip

    def view(self, target: Target) -> CodedView:
        from specdec.sparse.codecs.joint import Joint
        from specdec.sparse.codecs.projected import Projected
        from specdec.sparse.maths.key_rotation import KeyRotation

        side = Projected(self.latent_share)
        return self.coded(
            "x-ecomla", target, Joint(side, KeyRotation.of(target, "x-ecomla"), BLOCK)
        )
