"""`cacheblend`: the target drafts for itself, on documents that were read apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from specdec.drafts.methods.self_draft import DraftWeights
from specdec.drafts.methods.tree_size import GrownTree
from specdec.method import ViewMethod


@dataclass(frozen=True)
class CacheBlendOptions(DraftWeights, GrownTree):
    """Its options, and those of the view that it is `on`, `sparse.methods.cacheblend`."""

    path = "specdec.drafts.cacheblend:CacheBlendDrafter"
    needs_documents = True

    on: ViewMethod | None = None

    def with_documents(self, documents: Any) -> CacheBlendOptions:
        assert self.on is not None
        return replace(self, on=self.on.with_documents(documents))
