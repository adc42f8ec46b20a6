"""TriForce's retrieval (arXiv 2404.11912): chunks by their mean key and the last query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class TriForceChunks(PageBudget):
    """The paper's chunks of 8; the first one is always kept."""

    paper = "2404.11912"
    family = "selector"
    keeps = "chunks of 8 tokens by their mean key"

    sink: int = 8
    recent: int = 0

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.scorers.chunk_means import ChunkMeans

        return self.policy("triforce-chunks", target, ChunkMeans(8))
