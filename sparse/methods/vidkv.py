"""VidKV (arXiv 2503.16257): keys in 1.5 bits, values in 1.6."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Number
from specdec.sparse.methods.coded import Coded

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.codecs.coded_view import CodedView

BLOCK = 64  # tokens that share a scale; the paper has 32, whose scales cost as much as the codes


@dataclass(frozen=True)
class VidKV(Coded):
    """Channels of keys that span much in 2 bits, the others by the signs of their spectrum; values
    are -s, 0 or s.

    The paper encodes video tokens, and can keep a fifth of them in 2 bits; here every token is
    encoded alike, text too, but for the last ones. Written from its formulas: in the released code
    signs lose their minus, the scale of ternary values is left out, and what was encoded is encoded
    again.
    """

    paper = "2503.16257"
    keeps = "every token, in one to two bits"

    wide_share: float = option(
        0.5, "Share of a key's channels that is kept in 2 bits, the others being in 1.",
        Number(0.01, 0.99),
    )  # fmt: skip

    def view(self, target: Target) -> CodedView:
        from specdec.sparse.codecs.by_range import ByRange
        from specdec.sparse.codecs.codec import TwoSides
        from specdec.sparse.codecs.grouped import TOKENS, Grouped
        from specdec.sparse.codecs.sign_spectrum import SignSpectrum
        from specdec.sparse.codecs.ternary import Ternary

        keys = ByRange(Grouped(2, BLOCK, TOKENS), SignSpectrum(), self.wide_share)
        return self.coded("vidkv", target, TwoSides(keys, Ternary(), BLOCK))
