"""Double Sparsity (arXiv 2408.07092): tokens by 16 label channels, first two layers dense."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from specdec.method import option
from specdec.option_kinds import Anything, LayerRule, OneOf
from specdec.sparse.methods.page_budget import FirstLayers, PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class DoubleSparsity(PageBudget):
    """`channels` may be a `ChannelOrder`, too, which is what it becomes once it is resolved."""

    paper = "2408.07092"
    family = "selector"
    keeps = "tokens by a few channels of their keys"

    refresh: str | int = "pass"
    dense: tuple[int, ...] | LayerRule = FirstLayers(2)
    channels: Any = option(
        "prompt", "Where the label channels come from: 'prompt'; 'text' (measured once on a text "
        "that is always there, and kept in the cache folder); or a file of `specdec profile "
        "--calibrate-channels`.", Anything(),
    )  # fmt: skip
    label_bits: int = option(16, "Bits of a label.", OneOf(4, 16))

    def resolved(self, target: Target, tokenizer: Any) -> DoubleSparsity:
        from specdec.sparse.scorers.channel_calibration import channel_order

        order = channel_order(target, tokenizer, self.channels)
        return self if order is None else replace(self, channels=order)

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.scorers.channel_calibration import channel_order
        from specdec.sparse.scorers.label_channels import LabelChannels

        order = channel_order(target, None, self.channels)
        scorer = LabelChannels(16, order, self.label_bits)
        return self.policy("double-sparsity", target, scorer)
