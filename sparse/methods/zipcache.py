"""ZipCache (arXiv 2405.14256): salient tokens in 4 bits, the others in 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Number, OneOf, Tokens
from specdec.sparse.methods.coded import Coded

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.codecs.coded_view import CodedView
    from specdec.sparse.codecs.mixed_view import MixedView
    from specdec.sparse.view import SparseView

BLOCK = 64  # tokens that share the scale of a key's channel
ANEW = 100  # tokens after which salience is judged anew


@dataclass(frozen=True)
class ZipCache(Coded):
    """Salience is by probes: `importances.salience`. Values are scaled by channel, then by token
    over all heads (the channel-separable quantiser); keys by channel, as in the released code.

    Where it encodes the cache anew after 100 tokens, both forms of each token are kept here, and
    the choice between them is made anew. Of the text 60 % are salient, by head.
    """

    paper = "2405.14256"
    keeps = "every token, salient ones in more bits"

    kv_bits: int = option(2, "Bits of the tokens that matter less.", OneOf(2, 4))
    salient_bits: int = option(4, "Bits of salient tokens.", OneOf(4, 8))
    salient_share: float = option(0.6, "Share of tokens that are salient.", Number(0.01, 1.0))
    recent: int = option(100, "Last tokens that are read as they are.", Tokens())

    name = "zipcache"

    def view(self, target: Target) -> MixedView:
        from specdec.sparse.codecs.mixed_view import MixedView

        policy = self.salient(target)
        policy.check(target)
        low, high = (self._copy(target, bits) for bits in (self.kv_bits, self.salient_bits))
        return MixedView(self.name, policy, low, high)

    def salient(self, target: Target) -> SparseView:
        """What chooses the salient tokens."""
        from specdec.sparse.importances.salience import Salience
        from specdec.sparse.triggers.every_tokens import EveryTokens
        from specdec.sparse.view import SparseView

        return SparseView(
            self.name, budget=self.recent + 1, sink=0, recent=self.recent,
            refresh=EveryTokens(ANEW), importance=Salience(), share=self.salient_share,
        )  # fmt: skip

    def _copy(self, target: Target, bits: int) -> CodedView:
        from specdec.sparse.codecs.codec import TwoSides
        from specdec.sparse.codecs.grouped import HEADS, TOKENS, Grouped
        from specdec.sparse.codecs.scaled import Scaled

        values = Scaled(Grouped(bits, 1, HEADS), balanced=False)
        codec = TwoSides(Grouped(bits, BLOCK, TOKENS), values, BLOCK)
        return self.coded(f"{self.name} in {bits} bits", target, codec)
