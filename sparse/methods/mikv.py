"""MiKV (arXiv 2402.18096): tokens that matter as they are, the others in few bits; none is lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Number, OneOf
from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.codecs.mixed_view import MixedView

GROUP = 64  # channels that share a scale
BLOCK = 16  # ours: codes are of one token, so any will do


@dataclass(frozen=True)
class MiKV(PageBudget):
    """By the attention that a token has had in all and a window of recent ones, as `h2o`.

    Keys are scaled by the balancer sqrt(max |q| / max |k|) of each channel before they are coded,
    where q are the prompt's last queries (the paper's are all of the prompt's). In the paper a
    token that drops to few bits never comes back; here both forms of it are there, so it may. Of
    its 2 to 4 bits 4 are the default: beside exact logits the noise of 2 bits cost more than the
    exact ones brought (docs/decisions/sparse.md).
    """

    paper = "2402.18096"
    family = "codec"
    keeps = "every token, the important ones as they are"

    kv_bits: int = option(4, "Bits of the tokens that matter less.", OneOf(2, 4, 8))
    exact_share: float = option(
        0.2, "Share of the text that is read as it is, if that is more than the budget.",
        Number(0.01, 1.0),
    )  # fmt: skip

    def view(self, target: Target) -> MixedView:
        from specdec.sparse.codecs.codec import TwoSides
        from specdec.sparse.codecs.coded_view import CodedView
        from specdec.sparse.codecs.grouped import CHANNELS, Grouped
        from specdec.sparse.codecs.mixed_view import MixedView
        from specdec.sparse.codecs.scaled import Scaled
        from specdec.sparse.importances.accumulated import AccumulatedMass
        from specdec.sparse.importances.running import Running
        from specdec.sparse.scorers.recency import Recency

        few = Grouped(self.kv_bits, GROUP, CHANNELS)
        codec = TwoSides(Scaled(few, balanced=True), few, BLOCK)
        groups = {layer: (layer,) for layer in target.full_layers}
        low = CodedView("mikv", codec, groups, recent=self.recent, asks_queries=True)
        policy = self.policy(
            "mikv", target, Recency(), importance=Running(AccumulatedMass()), share=self.exact_share
        )
        return MixedView("mikv", policy, low)
