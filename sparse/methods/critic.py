"""CRITIC (arXiv 2504.01281): the tokens with much attention, or much that is spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Number
from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class CRITIC(PageBudget):
    """By `importances.critic`, which has no gradients. The paper's share of the text that is kept,
    0.5 to 0.9 by how much memory is used, is `budget` here; its trigger `triggers.atlas` is not
    among this view's parts."""

    paper = "2504.01281"
    family = "step scorer"
    keeps = "tokens by attention and its entropy"

    sink: int = 0
    attention_weight: float = option(
        0.5, "How much attention counts, the rest being its entropy.", Number(0.0, 1.0)
    )

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.importances.critic import Critic
        from specdec.sparse.importances.running import Running

        return self.policy("critic", target, importance=Running(Critic(self.attention_weight)))
