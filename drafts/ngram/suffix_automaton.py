"""SuffixAutomaton: every substring of a growing token text, and what followed it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specdec.drafts.ngram import text_index as index

Ints = NDArray[np.int64]
ROOM = 256  # tokens that there is room for beyond those that are there


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

    n tokens have at most 2 n states and 3 n edges. They lie in arrays that grow by doubling, read
    and written by compiled code (`text_index`): some five million tokens a second, and
    0.2 to 0.4 KB a token.
    """

    def __init__(self, max_match: int = 32, room: int = 0) -> None:
        """room: tokens that are sure to come."""
        self.max_match = max_match
        self._head: Ints = np.array([0, 1, 0, 0, 0])
        self._states: Ints = np.zeros((2, 5), np.int64)
        self._states[0] = 0, -1, 0, 0, -1
        self._edges: Ints = np.zeros((0, 4), np.int64)
        self._make_room(room + ROOM)

    def __len__(self) -> int:
        return int(self._head[index.NUM_TOKENS])

    def append(self, token: int) -> None:
        """Add one token to the text."""
        self.extend((token,))

    def extend(self, tokens: Iterable[int]) -> None:
        """Add tokens to the text, one by one; amortised O(1) each."""
        new = list(tokens)
        self.take_up(new, len(new), 1, 0.0)

    def take_up(
        self, tokens: Sequence[int], untaught: int, min_ngram: int, novelty: float
    ) -> float:
        """Add tokens to the text, and learn from all but the first `untaught` how little it repeats
        itself: what `novelty` has become.

        For each of them whose longest match, of at least `min_ngram` tokens, had continuations:
        whether it was one, against how likely that was.
        """
        if self._room < len(tokens):
            self._make_room(max(len(tokens), len(self)) + ROOM)
        self._room -= len(tokens)
        new = np.array(tokens, np.int64)
        learned = index.take_up(*self._parts, new, untaught, min_ngram, self.max_match, novelty)
        return float(learned)

    def match(self, tail: Sequence[int] = ()) -> Match:
        """The longest suffix of text + `tail` that occurred in the text with a token behind it.

        At most `max_match` tokens long, of length 0 where there is none. `tail` is not added.
        """
        return Match(*index.match(*self._parts, np.array(tail, np.int64), self.max_match))

    def step(self, match: Match, token: int) -> Match:
        """The match after one more token that is not added to the text."""
        return Match(*index.step(*self._parts[:3], *match, token, self.max_match))

    def continuations(self, match: Match) -> list[Continuation]:
        """The tokens that followed `match`, in no order: compare them to rank them."""
        found, edge = [], int(self._states[match.state, index.EDGE])
        while edge >= 0:
            _, token, to, edge = self._edges[edge].tolist()
            times, end = self._states[to, index.COUNT], self._states[to, index.END]
            found.append(Continuation(int(times), int(end), token, to))
        return found

    def grow(
        self,
        tail: Sequence[int],
        max_depth: int,
        width: int,
        min_ngram: int,
        novelty: float,
        costs: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    ) -> tuple[list[int], list[int], list[float]]:
        """What probably follows text + `tail`: tokens of a tree's nodes, their parents (0 is the
        root, which is left out) and their chances, most probable first.

        Copies what followed the longest match of at least `min_ngram` tokens, `width` nodes a
        level. costs: seconds and slopes of `Sizes`, and the tree ends where no further node can
        pay; None: it is as deep and wide as the text allows.
        """
        most = index.MAX_NODES if costs is not None else max(max_depth, 0) * width
        seconds, slopes = (_NONE, _NONE) if costs is None else costs
        nodes, chances = index.grow(
            *self._parts, np.array(tail, np.int64) if tail else _EMPTY, max_depth, width, min_ngram,
            self.max_match, novelty, seconds, slopes, most,
        )  # fmt: skip
        if not len(nodes):
            return [], [], []
        return nodes[:, 0].tolist(), nodes[:, 1].tolist(), chances.tolist()

    def _make_room(self, tokens: int) -> None:
        """Have room for so many more tokens."""
        total = len(self) + tokens
        self._states, self._edges = (
            _longer(self._states, 2 * total + 2),
            _longer(self._edges, 3 * total),
        )
        table = np.full(1 << (4 * total).bit_length(), -1, np.int32)
        index.rehash(self._edges, table, self._head[index.NUM_EDGES])
        self._parts = self._states, self._edges, table, self._head
        self._room = tokens


_NONE, _EMPTY = np.empty(0), np.empty(0, np.int64)


def _longer(rows: Ints, count: int) -> Ints:
    longer: Ints = np.empty((count, rows.shape[1]), np.int64)
    longer[: len(rows)] = rows
    return longer
