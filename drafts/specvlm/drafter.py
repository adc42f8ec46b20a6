"""SpecVlm: drafts with a LongSpec block that reads each image as a few entries."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

from specdec.decoding.cached_model import CachedModel
from specdec.drafts.longspec.drafter import LongSpec, check_shipped
from specdec.drafts.methods.specvlm import SpecVlmOptions
from specdec.drafts.specvlm.model import SpecVlmModel
from specdec.drafts.specvlm.prepared import SHIPPED, PreparedImages, is_prepared, prepared
from specdec.method import DrafterMethod
from specdec.model.target import Target
from specdec.sampling.sequence import Row


class SpecVlm(LongSpec):
    """LongSpec's block, for which images are made small (SpecVLM, arXiv 2509.11815).

    Unlike the paper, whose drafter is EAGLE's layer on compressed embeddings of images, what is
    compressed are the target's own cached keys and values of one layer. Texts without images are
    drafted as LongSpec drafts them. Without `draft_model` it takes the checkpoint that ships with
    specdec, which fits the demo models; its weights are read when a row joins.
    """

    name = "specvlm"
    Options: ClassVar[type[DrafterMethod]] = SpecVlmOptions
    usual_depth = 2  # measured: docs/decisions/drafts.md

    def __init__(self, target: Target, options: SpecVlmOptions) -> None:
        self._options = options
        self.start(target, target, options)
        if options.draft_model is None:
            check_shipped(target, SHIPPED)
            self.is_cold = not is_prepared(target)
        else:
            assert self.branch

    @cached_property
    def images(self) -> PreparedImages:
        """The block and its compressor; weights are read, unless they were for this target."""
        given = self._options.draft_model
        return given if isinstance(given, PreparedImages) else prepared(self.draft, given)

    @property
    def branch(self) -> str:
        """The branch that was asked for."""
        return self.images.branch(self._options.image_branch, self._options.draft_model)

    def open(self, rows: Sequence[Row], verifier: CachedModel) -> SpecVlmModel:
        tokens = self._options.image_tokens or self.images.compressor.sizes.tokens
        return SpecVlmModel(self.draft, self.images, verifier, self.branch, tokens)
