"""NGramDrafter: the text repeats itself, so propose what followed the last tokens before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from specdec.control.costs import PassCosts
from specdec.control.sizes import Sizes
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.drafter import Drafter, Traits
from specdec.drafts.methods.ngram import NGramOptions
from specdec.drafts.ngram.suffix_automaton import SuffixAutomaton
from specdec.drafts.ngram.text_index import MAX_NODES
from specdec.forward.plan import Needs
from specdec.method import DrafterMethod
from specdec.sampling.sequence import Row
from specdec.sampling.tree import Law, TokenTree
from specdec.sampling.verify import Verdict

MAX_DEPTH = 60  # of a draft whose length is ours to choose; with its root it fits 64 nodes
WIDTH = 2  # nodes per level of such a draft; a third gained 0.1 % more
STEADY = 32  # rounds for which costs are taken to be what they were


@dataclass
class _Text:
    """One row: the index of its final tokens, and how little the row repeats itself.

    start: how many tokens it had when we met it; what came before teaches nothing. known: how many
    are indexed. A continuation that was never seen weighs 2 / length * exp(novelty) against one
    sight of a seen one, per seen token: the longer the match, the less. Measured on greedy and
    sampled text of a small model, on source code and on prose, that fits a row of novelty 0.
    """

    index: SuffixAutomaton
    start: int
    novelty: float = 0.0
    known: int = 0


class NGramDrafter(Drafter):
    """Copies what followed the longest earlier occurrence of the last tokens (arXiv 2411.04975).

    The main branch takes, token by token, the continuation seen most often, then most recently;
    side branches take the others. A continuation seen c of n times, among d different ones, is
    expected with probability c / (n + escape * d), as in prediction by partial matching.

    Without `num_draft_tokens` the tree holds exactly the nodes that are expected to pay: as many of
    the most probable ones as give the most tokens per second, by what passes cost on this machine;
    and none at all if that does not beat a plain step. So a long match makes a long draft, and a
    row that does not repeat itself gets none. The row's `novelty` is learned from every emitted
    token, drafted or not: whether it was among the continuations known before it. So a quiet
    drafter needs no trials to find out when to speak again, and other drafters' successes cannot
    mislead it.

    Where others draw drafts beside ours (acceptance by rejection), sizes follow a fixed guess of
    costs instead: what is drawn depends on them, and the same seed must give the same text.

    With `num_draft_tokens` drafts are always that deep, if there is a match, as in prompt lookup;
    `draft_width` (then 1) is the number of nodes per level.
    """

    name = "ngram"
    Options: ClassVar[type[DrafterMethod]] = NGramOptions

    def __init__(self, target: object, options: NGramOptions) -> None:
        self._options = options
        self._adaptive = options.num_draft_tokens is None
        self._depth = options.num_draft_tokens or MAX_DEPTH
        self._width = options.draft_width or (WIDTH if self._adaptive else 1)
        self._texts: dict[int, _Text] = {}
        self.costs = PassCosts()
        self._sizes: Sizes | None = None
        self._age = 0
        self.needs = Needs(costs=self._adaptive)
        self.traits = Traits(self.name, self._depth, instant=True)

    def join(self, rows: Sequence[Row], verifier: CachedModel) -> None:
        """Index the prompts."""
        if verifier is not None and not any(row.sampler.draws for row in rows):
            self.costs = verifier.costs
        for row in rows:
            self._text(row)

    def leave(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._texts.pop(row.index, None)

    def propose(self, rows: Sequence[Row], limits: Sequence[int]) -> list[TokenTree]:
        """Trees of `Law.POINT` nodes with their chances; bare roots where no draft would pay."""
        sizes = self._sizes_for(rows) if self._adaptive and rows else None
        trees = [
            self._grow(row, self._text(row), min(limit, self._depth), sizes)
            for row, limit in zip(rows, limits, strict=True)
        ]
        if sizes is None or all(len(tree) == 1 for tree in trees):
            return trees
        size = sizes.best([list(tree.chances.values()) for tree in trees])
        return [tree.cropped(1 + size, self._depth) for tree in trees]

    def observe(
        self, rows: Sequence[Row], trees: Sequence[TokenTree], verdicts: Sequence[Verdict]
    ) -> None:
        """Nothing to do: what came true is in the rows' tokens."""

    def _text(self, row: Row) -> _Text:
        """The row's text, indexed as far as it is final.

        Tokens that can be taken back are matched but not indexed, so nothing is left of them.
        """
        text = self._texts.get(row.index)
        if text is None:
            index = SuffixAutomaton(self._options.max_ngram, room=len(row.tokens))
            text = self._texts[row.index] = _Text(index, len(row.tokens))
        if text.known < row.num_final:
            new, text.known = row.keys(text.known, row.num_final), row.num_final
            untaught = text.start - row.num_final + len(new)
            text.novelty = text.index.take_up(
                new, max(0, untaught), self._options.min_ngram, text.novelty
            )
        return text

    def _sizes_for(self, rows: Sequence[Row]) -> Sizes:
        """What passes of these rows cost; worked out now and then, since it takes its time too."""
        if self._age >= STEADY or self._sizes is None or self._sizes.rows != len(rows):
            keys = sum(len(row.tokens) for row in rows)
            self._sizes, self._age = Sizes.of(self.costs, len(rows), keys, MAX_NODES), 0
        self._age += 1
        return self._sizes

    def _grow(self, row: Row, text: _Text, depth: int, sizes: Sizes | None) -> TokenTree:
        """The best tree below the row's last token, its nodes in order of falling probability.

        sizes: where the size is ours to choose, how far it can pay to go on.
        """
        tail = row.keys(row.num_final) if row.num_final < len(row.tokens) else ()
        costs = None if sizes is None else sizes.arrays
        tokens, parents, chances = text.index.grow(
            tail, depth, self._width, self._options.min_ngram, text.novelty, costs
        )
        if not tokens:
            return TokenTree.root(row.tokens[-1])
        count = len(tokens)
        return TokenTree(
            [row.tokens[-1], *tokens],
            [-1, *parents],
            [Law.POINT] * (1 + count),
            ["", *[self.name] * count],
            chances=dict(enumerate(chances, start=1)),
        )
