"""Blended: the full view of a text whose documents were read apart."""

from __future__ import annotations

from specdec.forward.full_view import FullView
from specdec.forward.plan import Needs
from specdec.sparse.blend.fused_documents import FusedDocuments


class Blended(FullView):
    """Reads every key there is; those of the documents are not what the model would make of them.

    saved: what prompts begin with, in place of what was read at once.
    """

    name, lossless = "cacheblend", False

    def __init__(self, saved: FusedDocuments) -> None:
        self.saved, self.needs = saved, Needs(prefix=saved)
