"""CacheBlend (arXiv 2405.16444): saved documents in any order, some tokens read again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from specdec.method import ViewMethod, option
from specdec.option_kinds import Number

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.blend.view import Blended


@dataclass(frozen=True)
class CacheBlend(ViewMethod):
    """Reads every key there is, of documents that were read apart.

    documents: the `SavedDocuments` of the call, which are no option of their own. The default of
    recomputed_share is the paper's.
    """

    paper = "2405.16444"
    family = "prompt program"
    keeps = "everything, of documents that were read apart"
    needs_documents = True

    recomputed_share: float = option(
        0.15, "Share of the documents' tokens that are read again: those that deviate most.",
        Number(0.0, 1.0),
    )  # fmt: skip
    documents: Any = field(default=None, compare=False, repr=False)

    def with_documents(self, documents: Any) -> CacheBlend:
        return replace(self, documents=documents)

    def view(self, target: Target) -> Blended:
        from specdec.sparse.blend.fused_documents import FusedDocuments
        from specdec.sparse.blend.view import Blended

        return Blended(FusedDocuments(self.documents, target, self.recomputed_share))
