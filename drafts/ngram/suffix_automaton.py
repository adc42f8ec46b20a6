"""SuffixAutomaton: every substring of a growing token text, and what followed it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Match(NamedTuple):
    """A suffix of the text that occurred earlier: its state, and its length in tokens."""

    state: int
    length: int


class Continuation(NamedTuple):
    """A token that followed a match. Continuations compare in order of preference.

    times, end: how often the match was followed by `token`, and where it last was: the number of
        tokens of the text up to and with `token`.
    state: of the match with `token` behind it.
    """

    times: int
    end: int
    token: int
    state: int


class SuffixAutomaton:
    """The substrings of a text, indexed online (Blumer et al. 1985; drafting: arXiv 2411.10666).

    A state stands for the substrings that end at one and the same set of places. It knows the
    longest of them, the state of their longest suffix that ends elsewhere too (its link), and per
    token the state of the text one token longer. The link of the whole text is the longest suffix
    that occurred before: finding it costs nothing beyond the appending, amortised O(1) a token.

    Each state also counts its places and remembers the latest. One more token adds a place to every
    state on its chain of links, and that chain can be as long as the text ("a a a a ..."). We walk
    it from the longest repeated suffix of at most `max_match` tokens down. Lengths fall strictly
    along links, so a token costs at most `max_match` steps (2 in real text), and counts and
    places are exact, also those that the newest token made, for all substrings of at most
    `max_match` tokens. Those of longer ones are lower bounds. Nothing is put off or rebuilt.

    Time and memory in plain Python: about half a million tokens a second and 0.5 KB a token.
    """

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
