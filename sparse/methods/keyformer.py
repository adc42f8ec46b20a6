"""Keyformer (arXiv 2403.09054): the tokens that gather attention under noise, ever more evenly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class Keyformer(PageBudget):
    """Key tokens by `importances.key_tokens`, whose noise is the same whenever a text is read.

    The paper keeps 30 % of what it keeps for recent tokens (`recent=154` does) and never takes back
    what it discarded. Here verification reads everything, and each round chooses anew.
    """

    paper = "2403.09054"
    family = "step scorer"
    keeps = "the most attended tokens, under noise"

    sink: int = 0

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.importances.key_tokens import KeyTokens
        from specdec.sparse.importances.running import Running

        return self.policy("keyformer", target, importance=Running(KeyTokens()))
