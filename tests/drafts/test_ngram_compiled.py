"""The compiled n-gram drafter against the one in plain Python: the same trees on any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.control.costs import PassCosts
from specdec.control.sizes import Sizes
from specdec.drafts.ngram.suffix_automaton import SuffixAutomaton
from specdec.sampling.prompt import MARK

from helpers.ngram_rows import COSTS, drafter_of, row_of
from helpers.python_ngrams import Automaton, Text, grow

pytestmark = pytest.mark.fast

# few tokens, so that texts repeat themselves, some of which stand for parts of images
letters = st.sampled_from([0, 1, 2, 3, -1, 70_000, MARK + 5])
pieces = st.lists(st.lists(letters, min_size=1, max_size=30), min_size=1, max_size=5)


@given(
    pieces, st.lists(letters, max_size=6), st.integers(1, 4), st.integers(1, 12),
    st.one_of(st.none(), st.integers(1, 9)), st.integers(1, 4), st.integers(0, 12),
)  # fmt: skip
def test_the_same_trees(text, tail, shortest, longest, depth, width, limit):
    """Whatever is asked for, after every piece of a text and with a tail that may be taken back:
    tokens, parents and chances, to the last bit."""
    options = {"min_ngram": shortest, "max_ngram": max(shortest, longest), "draft_width": width}
    drafter = drafter_of(**options, **({} if depth is None else {"num_draft_tokens": depth}))
    row = row_of(text[0])
    drafter.join([row], None)
    known = Text(Automaton(options["max_ngram"]), len(row.tokens))
    deepest = min(limit, 60 if depth is None else depth)
    for piece in [[], *text[1:]]:
        row.tokens = [*row.tokens[: row.num_final], *piece]
        row.num_final = len(row.tokens)
        row.tokens = [*row.tokens, *tail]
        known.take_up(row.tokens[len(known.index) : row.num_final], shortest)
        sizes = None
        if depth is None:
            sizes = Sizes.of(PassCosts(COSTS), 1, len(row.tokens), 63)
        match = known.index.match(tail)
        tree = grow(known, match, row.tokens[-1], deepest, width, shortest, sizes)
        if sizes is not None and len(tree) > 1:
            tree = tree.cropped(1 + sizes.best([list(tree.chances.values())]), 60)
        assert drafter.propose([row], [limit]) == [tree]
        assert drafter._texts[0].novelty == known.novelty


@given(st.lists(st.integers(0, 5), max_size=3000), st.integers(1, 40))
def test_the_same_index_of_long_texts(text, most):
    """Also where the arrays had to grow: matches, counts and places."""
    one, other = SuffixAutomaton(most), Automaton(most)
    for start in range(0, len(text), 500):
        one.extend(text[start : start + 500])
        other.extend(text[start : start + 500])
        assert one.match() == other.match()
    for tail in (text[:9], text[5:40], [7]):
        assert one.match(tail) == other.match(tail)
        found = sorted(c[:3] for c in one.continuations(one.match(tail)))
        assert found == sorted(c[:3] for c in other.continuations(other.match(tail)))
