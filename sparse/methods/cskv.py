"""CSKV (arXiv 2409.10593): keys and values in the directions that tell most, measured once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from specdec.method import option
from specdec.option_kinds import Anything, Number, OneOf, Tokens
from specdec.sparse.methods.coded import Coded

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.codecs.coded_view import CodedView

GROUP = 64  # numbers of a token that share a scale, where they are kept in few bits
BLOCK = 16  # ours: codes are of one token, so any will do


@dataclass(frozen=True)
class CSKV(Coded):
    """The tuned projections of the paper in closed form: see `calibrations.key_value_bases`.

    Keys before rotation and values of all heads together, each times its directions.
    """

    paper = "2409.10593"
    keeps = "every token in a share of the directions"

    key_share: float = option(
        0.5, "Share of the directions of keys that is kept.", Number(0.01, 0.75)
    )
    value_share: float = option(
        0.5, "Share of the directions of values that is kept.", Number(0.01, 0.75)
    )
    latent_bits: int = option(16, "Bits of what is kept; 16 keeps it as it is.", OneOf(2, 4, 8, 16))
    recent: int = option(32, "Last tokens that are read as they are.", Tokens())
    calibration: Any = option(
        "auto", "Directions of this model: auto (measured once and kept in the cache folder), or a "
        "file of `specdec calibrate cskv`.", Anything(),
    )  # fmt: skip

    def resolved(self, target: Target, tokenizer: Any) -> CSKV:
        from specdec.sparse.calibrations.finding import bases_of

        return replace(self, calibration=bases_of(target, self.calibration, tokenizer))

    def view(self, target: Target) -> CodedView:
        from specdec.sparse.calibrations.finding import bases_of
        from specdec.sparse.codecs.codec import TwoSides
        from specdec.sparse.codecs.grouped import CHANNELS, Grouped
        from specdec.sparse.codecs.plain import Plain
        from specdec.sparse.codecs.projected import Projected
        from specdec.sparse.codecs.unturned import Unturned
        from specdec.sparse.maths.key_rotation import KeyRotation

        bases = bases_of(target, self.calibration)
        kept = Plain() if self.latent_bits == 16 else Grouped(self.latent_bits, GROUP, CHANNELS)
        keys = Projected(self.key_share, bases.of(0), kept)
        values = Projected(self.value_share, bases.of(1), kept)
        unturned = Unturned(keys, KeyRotation.of(target, "cskv"))
        return self.coded("cskv", target, TwoSides(unturned, values, BLOCK))
