"""SparF of InstInfer (arXiv 2409.04992): tokens by each query's strongest channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.method import option
from specdec.option_kinds import Whole
from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class SparF(PageBudget):
    """The mean value stands for what is left out, by the mass that the strongest channels estimate.

    SparQ (arXiv 2312.04985) as InstInfer runs it in flash storage. Its hardware, and keys on disk
    in two layouts read by pages of 4 KB, are not here: scores are made of a copy of the keys near
    the queries, tokens are read from wherever they lie.
    """

    paper = "2409.04992"
    family = "selector"
    keeps = "tokens by the strongest channels of the query; the mean value for the rest"

    refresh: str | int = "pass"
    query_channels: int = option(
        16, "Channels of a query, its strongest ones, by which tokens are scored.", Whole(1, 1024)
    )

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.scorers.strong_channels import StrongChannels
        from specdec.sparse.tails.mean_value_view import MeanValueView

        scorer = StrongChannels(self.query_channels)
        return self.policy("sparf", target, scorer, kind=MeanValueView)
