"""SentenceKV (arXiv 2504.00970): whole sentences, by what the running one asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from specdec.errors import InvalidArgument
from specdec.method import option
from specdec.option_kinds import Number
from specdec.sparse.methods.page_budget import PageBudget

if TYPE_CHECKING:
    from specdec.model.target import Target
    from specdec.sparse.view import SparseView


@dataclass(frozen=True)
class SentenceKV(PageBudget):
    """The first and the last 32 tokens are always read, as in the released code.

    So is that three times the budget of the prompt's tokens take part, by SnapKV's votes, and the
    others are never read: `prefilter=0` reads whole sentences of all. As a drafter at 4,000 tokens
    and a budget of 512 it overlaps 0.92 with the filter and 0.91 without.

    The released code chooses at each token, for each query head, and reads everything at a
    sentence's first; here a choice stands for a round, and a sentence that has just begun asks with
    its first query. Sentences end by token ids, so a tokenizer is needed; `marks` are those ids
    once it is known.
    """

    paper = "2504.00970"
    family = "selector"
    keeps = "sentences by their mean keys"

    sink: int = 32
    recent: int = 32
    prefilter: float = option(
        3.0, "Budgets of the prompt's tokens that take part, by its last queries; 0: all of them.",
        Number(0.0, 1000.0),
    )  # fmt: skip
    marks: frozenset[int] | None = None

    def resolved(self, target: Target, tokenizer: Any) -> SentenceKV:
        from specdec.sparse.maths.sentences import sentence_ends

        if tokenizer is None:
            raise InvalidArgument(
                "'sentencekv' needs a tokenizer, which says where sentences end, and this model "
                "has none: give Engine(model, tokenizer), or another method"
            )
        marks = sentence_ends(tokenizer)
        if not marks:
            raise InvalidArgument(
                "'sentencekv' goes by sentences, and no token of this tokenizer ends one (a full "
                "stop, a question or exclamation mark, a blank line): give another method"
            )
        return replace(self, marks=marks)

    def view(self, target: Target) -> SparseView:
        from specdec.sparse.groupings.sentences import Sentences

        if self.marks is None:
            return self.resolved(target, None).view(target)
        survivors = round(self.prefilter * self.budget)
        return self.policy("sentencekv", target, groups=Sentences(self.marks, survivors))
