"""KIVI (arXiv 2402.02750): every key and value in 2, 4 or 8 bits, but for the newest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import OneOf
from specdec.sparse.methods.coded import Coded

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.codecs.coded_view import CodedView


@dataclass(frozen=True)
class Kivi(Coded):
    """Keys are scaled by channel over a group of tokens, values by token."""

    paper = "2402.02750"
    keeps = "every token, in few bits"

    kv_bits: int = option(4, "Bits of keys and values.", OneOf(2, 4, 8))
    kv_group: int = option(
        64, "Tokens that share the scale of a key's channel.", OneOf(32, 64, 128, unit="tokens")
    )

    def view(self, target: Target) -> CodedView:
        from specdec.sparse.codecs.packed import PackedGroups

        return self.coded("kivi", target, PackedGroups(self.kv_bits, self.kv_group))
