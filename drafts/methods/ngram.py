"""`ngram`: continuations of earlier occurrences of the last tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from specdec.drafts.methods.tree_size import TreeSize
from specdec.errors import InvalidArgument
from specdec.method import option
from specdec.option_kinds import Whole

M = TypeVar("M", bound="NGramOptions")


@dataclass(frozen=True)
class NGramOptions(TreeSize):
    """Without `num_draft_tokens` the size of drafts follows what they promise, round by round."""

    path = "specdec.drafts.ngram.drafter:NGramDrafter"

    min_ngram: int = option(2, "Shortest match that is acted on.", Whole())
    max_ngram: int = option(32, "Longest match that is told from longer ones.", Whole())

    @classmethod
    def given(cls: type[M], options: Mapping[str, Any], **others: Any) -> M:
        """Whoever matches single tokens at most means it: then one token is a match."""
        if options.get("max_ngram") == 1:
            options = {"min_ngram": 1, **options}
        return super().given(options, **others)

    def check(self) -> None:
        super().check()
        if self.min_ngram > self.max_ngram:
            raise InvalidArgument(f"min_ngram={self.min_ngram} exceeds max_ngram={self.max_ngram}")
