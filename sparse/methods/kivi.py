"""KIVI (arXiv 2402.02750): every key and value in 2, 4 or 8 bits, but for the newest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import ViewMethod, option
from specdec.option_kinds import OneOf, Tokens

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.codecs.kivi_view import QuantizedView


@dataclass(frozen=True)
class Kivi(ViewMethod):
    """Keys are scaled by channel over a group of tokens, values by token."""

    paper = "2402.02750"
    family = "codec"
    keeps = "every token, in few bits"

    kv_bits: int = option(4, "Bits of keys and values.", OneOf(2, 4, 8))
    kv_group: int = option(
        64, "Tokens that share the scale of a key's channel.", OneOf(32, 64, 128, unit="tokens")
    )
    recent: int = option(128, "Last tokens that are read as they are.", Tokens())

    def view(self, target: Target) -> QuantizedView:
        from specdec.sparse.codecs.kivi_view import QuantizedView

        return QuantizedView(bits=self.kv_bits, group=self.kv_group, recent=self.recent)
