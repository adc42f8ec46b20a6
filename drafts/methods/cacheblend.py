"""`cacheblend`: the target drafts for itself, on documents that were read apart."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.drafts.methods.self_draft import DraftWeights
from specdec.drafts.methods.tree_size import GrownTree
from specdec.method import ViewMethod


@dataclass(frozen=True)
class CacheBlendOptions(DraftWeights, GrownTree):
    """Its options, and those of the view that it is `on`."""

    path = "specdec.drafts.cacheblend:CacheBlendDrafter"

    on: ViewMethod | None = None
