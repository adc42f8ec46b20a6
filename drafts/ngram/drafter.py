"""NGramDrafter: the text repeats itself, so propose what followed the last tokens before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, nlargest
from itertools import count
from typing import ClassVar

from specdec.control.costs import PassCosts
from specdec.control.sizes import Sizes
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.drafter import Drafter, Traits
from specdec.drafts.methods.ngram import NGramOptions
from specdec.drafts.ngram.suffix_automaton import Match, SuffixAutomaton
from specdec.forward.plan import Needs
from specdec.method import DrafterMethod
from specdec.sampling.prompt import MARK
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree
from specdec.sampling.verify import Verdict

MAX_DEPTH = 60  # of a draft whose length is ours to choose; with its root it fits 64 nodes
MAX_NODES = 63
WIDTH = 2  # nodes per level of such a draft; a third gained 0.1 % more
MIN_CHANCE = 0.02  # below that no node pays, whatever a pass costs
STEADY = 32  # rounds for which costs are taken to be what they were

NOVELTY_RATE = 0.5  # how fast a row learns
NOVELTY_LIMIT = 3.0  # how far: a few right guesses must wake a drafter that went quiet


@dataclass
class _Text:
    """One row: the index of its final tokens, and how little the row repeats itself.

    start: how many tokens it had when we met it; what came before teaches nothing.
    """

    index: SuffixAutomaton
    start: int
    novelty: float = 0.0

    def take_up(self, tokens: Sequence[int], min_ngram: int) -> None:
        """Learn from tokens that have become final, and index them."""
        index, before = self.index, max(0, self.start - len(self.index))
        index.extend(tokens[:before])
        for token in tokens[before:]:
            match = index.match()
            if match.length >= min_ngram:
                known, different, came = index.foretold(match, token)
                surprise = known / (known + self.escape(match) * different) - came
                novelty = self.novelty + NOVELTY_RATE * surprise
                self.novelty = max(-NOVELTY_LIMIT, min(NOVELTY_LIMIT, novelty))
            index.append(token)

    def escape(self, match: Match) -> float:
        """The weight of an unseen continuation against one sight of a seen one, per seen token.

        The longer the match, the less. Measured on greedy and sampled text of a small model, on
        source code and on prose, 2 / length fits a row of novelty 0.
        """
        return 2.0 / match.length * math.exp(self.novelty)


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
        trees, sizes = [], self._sizes_for(rows) if self._adaptive and rows else None
        for row, limit in zip(rows, limits, strict=True):
            text, match = self._text(row)
            trees.append(self._grow(text, match, row.tokens[-1], min(limit, self._depth), sizes))
        if sizes is None or all(len(tree) == 1 for tree in trees):
            return trees
        size = sizes.best([list(tree.chances.values()) for tree in trees])
        return [tree.cropped(1 + size, self._depth) for tree in trees]

    def observe(
        self, rows: Sequence[Row], trees: Sequence[TokenTree], verdicts: Sequence[Verdict]
    ) -> None:
        """Nothing to do: what came true is in the rows' tokens."""

    def _text(self, row: Row) -> tuple[_Text, Match]:
        """The row's text, indexed as far as it is final, and the match of its last tokens.

        Tokens that can be taken back are matched but not indexed, so nothing is left of them.
        """
        text = self._texts.get(row.index)
        if text is None:
            index = SuffixAutomaton(self._options.max_ngram)
            text = self._texts[row.index] = _Text(index, len(row.tokens))
        known = len(text.index)
        if known < row.num_final:
            text.take_up(row.keys(known, row.num_final), self._options.min_ngram)
        return text, text.index.match(row.keys(row.num_final))

    def _sizes_for(self, rows: Sequence[Row]) -> Sizes:
        """What passes of these rows cost; worked out now and then, since it takes its time too."""
        if self._age >= STEADY or self._sizes is None or self._sizes.rows != len(rows):
            keys = sum(len(row.tokens) for row in rows)
            self._sizes, self._age = Sizes.of(self.costs, len(rows), keys, MAX_NODES), 0
        self._age += 1
        return self._sizes

    def _grow(
        self, text: _Text, match: Match, root: int, max_depth: int, sizes: Sizes | None
    ) -> TokenTree:
        """The best tree below `root`, its nodes added in order of falling probability.

        sizes: where the size is ours to choose, how far it can pay to go on.
        """
        tree = TokenTree.root(root)
        if match.length < self._options.min_ngram:
            return tree
        tokens = 1.0  # expected of a round with the tree so far
        room = [self._width] * max_depth  # nodes that each level can still take
        order = count()
        # (-probability, order, parent, level, token, match of the parent): the most probable first.
        frontier: list[tuple[float, int, int, int, int, Match]] = []

        def expand(node: int, level: int, probability: float, match: Match) -> None:
            if match.length < self._options.min_ngram or level >= max_depth:
                return
            seen = text.index.continuations(match)
            total = sum(c.times for c in seen) + text.escape(match) * len(seen)
            for c in nlargest(self._width, (c for c in seen if c.token < MARK)):
                below = probability * c.times / total
                heappush(frontier, (-below, next(order), node, level, c.token, match))

        expand(0, 0, 1.0, match)
        while frontier:
            negative, _, parent, level, token, match = heappop(frontier)
            probability = -negative
            if sizes is not None and (
                probability < MIN_CHANCE
                or len(tree) > MAX_NODES
                or not sizes.can_pay(len(tree) - 1, tokens, probability)
            ):
                break  # nor will all less probable ones
            if not room[level]:
                continue
            room[level] -= 1
            tokens += probability
            node = tree.add(parent, token, proposer=self.name)
            tree.chances[node] = probability
            expand(node, level + 1, probability, text.index.step(match, token))
        return tree
