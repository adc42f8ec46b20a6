"""SpecVlm: drafts with a LongSpec block that reads each image as a few entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from specdec.decoding.cached_model import CachedModel
from specdec.drafts.longspec.drafter import LongSpec
from specdec.drafts.methods.specvlm import SpecVlmOptions
from specdec.drafts.specvlm.branches import BRANCHES
from specdec.drafts.specvlm.model import SpecVlmModel
from specdec.method import DrafterMethod
from specdec.model.target import Target
from specdec.sampling.sequence import Row


class SpecVlm(LongSpec):
    """LongSpec with the image branches of SpecVLM (arXiv 2509.11815) that have no weights.

    Unlike the paper, whose drafter holds compressed embeddings of images, what is compressed are
    the target's own cached keys and values; and the branch is an option, not a gate's choice.
    Texts without images are drafted as LongSpec drafts them.
    """

    name = "specvlm"
    Options: ClassVar[type[DrafterMethod]] = SpecVlmOptions

    def __init__(self, target: Target, options: SpecVlmOptions) -> None:
        super().__init__(target, options)
        self.branch, self.tokens = BRANCHES[options.image_branch], options.image_tokens

    def open(self, rows: Sequence[Row], verifier: CachedModel) -> SpecVlmModel:
        return SpecVlmModel(self.draft, self.prepared, verifier, self.branch, self.tokens)
