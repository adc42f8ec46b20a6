"""SpecVlm: drafts with a LongSpec block that reads each image as a few entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from specdec.decoding.cached_model import CachedModel
from specdec.drafts.longspec.drafter import LongSpec
from specdec.drafts.methods.specvlm import SpecVlmOptions
from specdec.drafts.specvlm.model import SpecVlmModel
from specdec.drafts.specvlm.prepared import PreparedImages, prepared
from specdec.method import DrafterMethod
from specdec.model.target import Target
from specdec.sampling.sequence import Row


class SpecVlm(LongSpec):
    """LongSpec's block, for which images are made small (SpecVLM, arXiv 2509.11815).

    Unlike the paper, whose drafter is EAGLE's layer on compressed embeddings of images, what is
    compressed are the target's own cached keys and values of one layer. Texts without images are
    drafted as LongSpec drafts them. Without `draft_model` it takes the checkpoint that ships with
    specdec, which fits the demo models.
    """

    name = "specvlm"
    Options: ClassVar[type[DrafterMethod]] = SpecVlmOptions

    def __init__(self, target: Target, options: SpecVlmOptions) -> None:
        given = options.draft_model
        self.images = given if isinstance(given, PreparedImages) else prepared(target, given)
        self.branch = self.images.branch(options.image_branch, given)
        self.tokens = options.image_tokens
        self.prepared = self.images.parts
        self.start(target, target, options)

    def open(self, rows: Sequence[Row], verifier: CachedModel) -> SpecVlmModel:
        return SpecVlmModel(self.draft, self.images, verifier, self.branch, self.tokens)
