"""Blended: the full view of a text whose documents were read apart."""

from __future__ import annotations

from specdec.decoding.options import DraftOptions
from specdec.forward.full_view import FullView
from specdec.model.target import Target
from specdec.sparse.blend.fused_documents import FusedDocuments


class Blended(FullView):
    """Reads every key there is; those of the documents are not what the model would make of them.

    saved: what prompts begin with.
    """

    name, lossless = "cacheblend", False

    def __init__(self, saved: FusedDocuments) -> None:
        self.saved = saved


def cacheblend(target: Target, options: DraftOptions) -> Blended:
    """The view of a call with saved documents."""
    return Blended(FusedDocuments(options.documents, target, options.recomputed_share))
