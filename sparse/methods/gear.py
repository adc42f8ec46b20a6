"""GEAR (arXiv 2403.05527): few bits, and what they get wrong by low rank and outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Number, OneOf, Tokens, Whole
from specdec.sparse.methods.coded import Coded

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.codecs.coded_view import CodedView

BUFFER = 64  # tokens of its streaming buffer


@dataclass(frozen=True)
class Gear(Coded):
    """Keys are scaled by channel and values by token, as in `kivi`.

    A buffer of 64 tokens is encoded when it is full, with the rank that GEAR has for those (the
    prompt is so many full buffers; the paper encodes it at once, with rank 4).
    """

    paper = "2403.05527"
    keeps = "every token in few bits, its outliers, and the error's strongest directions"

    kv_bits: int = option(2, "Bits of keys and values.", OneOf(2, 4, 8))
    kv_group: int = option(64, "Numbers that share a scale.", OneOf(32, 64, unit="tokens"))
    rank: int = option(2, "Rank of what is kept of the error.", Whole(1, 16))
    outliers: float = option(
        0.02, "Share of numbers kept as they are, half of them the greatest; 0 is GEAR-L.",
        Number(0.0, 0.5),
    )  # fmt: skip
    recent: int = option(0, "Last tokens that are read as they are.", Tokens())

    def view(self, target: Target) -> CodedView:
        from specdec.sparse.codecs.codec import TwoSides
        from specdec.sparse.codecs.grouped import CHANNELS, TOKENS, Grouped
        from specdec.sparse.codecs.repaired import Repaired

        keys, values = (
            Repaired(
                Grouped(self.kv_bits, self.kv_group, along), along, self.rank, self.outliers
            )
            for along in (TOKENS, CHANNELS)
        )  # fmt: skip
        return self.coded("gear", target, TwoSides(keys, values, BUFFER))
