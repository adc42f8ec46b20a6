"""ActQKV (arXiv 2502.13542): blocks of 32 by one query that stands for the last ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class ActQKV(PageBudget):
    """The probe is made of the queries of the last verification, at first of the prompt's last 32;
    the paper has those of a window of its prefill, which reads sparsely there and not here."""

    paper = "2502.13542"
    family = "selector"
    keeps = "blocks of 32 tokens by a probe query, layers by the density of their scores"

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.budgets.dense_layers import DenseLayers
        from specdec.sparse.scorers.probed_blocks import ProbedBlocks

        return self.policy(
            "actqkv", target, ProbedBlocks(), queries="verified", layers=DenseLayers(),
            layer_types=tuple(target.layer_types),
        )  # fmt: skip
