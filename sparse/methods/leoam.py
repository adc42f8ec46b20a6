"""LeoAM (arXiv 2506.20187): chunks as large as attention is flat, by bounds from large to small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class LeoAM(PageBudget):
    """A reconstruction: neither code nor hyper-parameters were found, so the sizes of chunks (64,
    16 and 8) and when a head goes down to the small ones are ours (`groupings.nested_chunks`).

    The paper keeps chunks on a disk, a bound for each beside them, and compresses what it fetches;
    here bounds stand beside the cache wherever that lies, and what is read is read as it is.
    """

    paper = "2506.20187"
    family = "selector"
    keeps = "chunks of 64, 16 or 8 tokens by the bounds of their keys"

    refresh: str | int = "pass"

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.groupings.nested_chunks import NestedChunks

        return self.policy("leoam", target, groups=NestedChunks())
