"""The n-gram drafter in plain Python, as it was before it was compiled: what the compiled one must
propose, token by token."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush, nlargest
from itertools import count

from specdec.control.sizes import Sizes
from specdec.drafts.ngram.suffix_automaton import Continuation, Match
from specdec.sampling.prompt import MARK
from specdec.sampling.tree import TokenTree


class Automaton:
    """See `specdec.drafts.ngram.suffix_automaton`: dictionaries and lists."""

    def __init__(self, max_match: int = 32) -> None:
        self.max_match = max_match
        self.num_tokens = 0
        # Per state; state 0 is the empty text.
        self._length = [0]
        self._link = [-1]
        self._next: list[dict[int, int]] = [{}]
        self._count = [0]
        self._end = [0]
        self._whole = 0  # state of the whole text
        self._repeated = 0  # of its longest suffix of <= max_match tokens that occurred before

    def __len__(self) -> int:
        return self.num_tokens

    def append(self, token: int) -> None:
        """Add one token to the text."""
        self.extend((token,))

    def extend(self, tokens: Iterable[int]) -> None:
        """Add tokens to the text, one by one; amortised O(1) each."""
        length, link, next_ = self._length, self._link, self._next
        count, end = self._count, self._end
        whole, repeated, place = self._whole, self._repeated, self.num_tokens
        for token in tokens:
            place += 1
            new, state = len(length), whole
            length.append(place)
            next_.append({})
            count.append(1)
            end.append(place)
            # Suffixes that `token` never followed lead to the new state from now on.
            old = None
            while state >= 0:
                after = next_[state]
                old = after.get(token)
                if old is not None:
                    break
                after[token] = new
                state = link[state]
            if old is None:
                link.append(0)
                whole, repeated = new, 0
                continue
            longest = length[state] + 1
            if length[old] > longest:
                # The shorter strings of `old` gain a place, its longest does not: split them off.
                split = new + 1
                link.append(split)
                link.append(link[old])
                link[old] = split
                length.append(longest)
                next_.append(next_[old].copy())
                count.append(count[old])
                end.append(end[old])
                while state >= 0 and next_[state].get(token) == old:
                    next_[state][token] = split
                    state = link[state]
                old = split
            else:
                link.append(old)
            if length[old] > self.max_match:
                # Longer than we follow; the capped suffix moves on by the same token.
                old = next_[repeated][token]
                while length[link[old]] >= self.max_match:
                    old = link[old]
            whole = new
            repeated = state = old
            while state > 0:
                count[state] += 1
                end[state] = place
                state = link[state]
        self._whole, self._repeated, self.num_tokens = whole, repeated, place

    def match(self, tail: Sequence[int] = ()) -> Match:
        """The longest suffix of text + `tail` that occurred in the text with a token behind it.

        At most `max_match` tokens long, of length 0 where there is none. `tail` is not added.
        """
        state = self._repeated
        match = Match(state, min(self._length[state], self.max_match))
        for token in tail:
            match = self.step(match, token)
        return match

    def step(self, match: Match, token: int) -> Match:
        """The match after one more token that is not added to the text."""
        state, length = match
        after = self._next[state].get(token)
        while after is None and state > 0:
            state = self._link[state]
            length = self._length[state]
            after = self._next[state].get(token)
        if after is None:
            return Match(0, 0)
        state, length = after, min(length + 1, self.max_match)
        while self._length[self._link[state]] >= length:
            state = self._link[state]
        while state > 0 and not self._next[state]:  # it occurred at the very end only
            state = self._link[state]
            length = self._length[state]
        return Match(state, length)

    def foretold(self, match: Match, token: int) -> tuple[int, int, bool]:
        """How often anything followed `match`, how many different tokens did, and whether `token`
        was one of them."""
        after = self._next[match.state]
        return sum(map(self._count.__getitem__, after.values())), len(after), token in after

    def continuations(self, match: Match) -> list[Continuation]:
        """The tokens that followed `match`, in no order: compare them to rank them."""
        count, end = self._count, self._end
        return [
            Continuation(count[state], end[state], token, state)
            for token, state in self._next[match.state].items()
        ]


class Text:
    """One row: its tokens, and how little it repeats itself."""

    def __init__(self, index: Automaton, start: int) -> None:
        self.index, self.start, self.novelty = index, start, 0.0

    def take_up(self, tokens: Sequence[int], min_ngram: int) -> None:
        """Learn from tokens that have become final, and index them."""
        index, before = self.index, max(0, self.start - len(self.index))
        index.extend(tokens[:before])
        for token in tokens[before:]:
            match = index.match()
            if match.length >= min_ngram:
                known, different, came = index.foretold(match, token)
                surprise = known / (known + self.escape(match) * different) - came
                novelty = self.novelty + 0.5 * surprise
                self.novelty = max(-3.0, min(3.0, novelty))
            index.append(token)

    def escape(self, match: Match) -> float:
        """The weight of an unseen continuation against one sight of a seen one, per seen token.

        The longer the match, the less. Measured on greedy and sampled text of a small model, on
        source code and on prose, 2 / length fits a row of novelty 0.
        """
        return 2.0 / match.length * math.exp(self.novelty)


def grow(
    text: Text,
    match: Match,
    root: int,
    max_depth: int,
    width: int,
    min_ngram: int,
    sizes: Sizes | None,
) -> TokenTree:
    """The best tree below `root`, its nodes added in order of falling probability.

    sizes: where the size is ours to choose, how far it can pay to go on.
    """
    tree = TokenTree.root(root)
    if match.length < min_ngram:
        return tree
    tokens = 1.0  # expected of a round with the tree so far
    room = [width] * max_depth  # nodes that each level can still take
    order = count()
    # (-probability, order, parent, level, token, match of the parent): the most probable first.
    frontier: list[tuple[float, int, int, int, int, Match]] = []

    def expand(node: int, level: int, probability: float, match: Match) -> None:
        if match.length < min_ngram or level >= max_depth:
            return
        seen = text.index.continuations(match)
        total = sum(c.times for c in seen) + text.escape(match) * len(seen)
        for c in nlargest(width, (c for c in seen if c.token < MARK)):
            below = probability * c.times / total
            heappush(frontier, (-below, next(order), node, level, c.token, match))

    expand(0, 0, 1.0, match)
    while frontier:
        negative, _, parent, level, token, match = heappop(frontier)
        probability = -negative
        if sizes is not None and (
            probability < 0.02
            or len(tree) > 63
            or not probability * sizes.seconds[len(tree) - 1] > tokens * sizes.slopes[len(tree) - 1]
        ):
            break  # nor will all less probable ones
        if not room[level]:
            continue
        room[level] -= 1
        tokens += probability
        node = tree.add(parent, token, proposer="ngram")
        tree.chances[node] = probability
        expand(node, level + 1, probability, text.index.step(match, token))
    return tree
