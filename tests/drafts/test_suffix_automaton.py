"""SuffixAutomaton against brute force on short texts over few tokens."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.drafts.ngram.suffix_automaton import Match, SuffixAutomaton

from helpers.brute_force import followers, longest, tails, tokens
from helpers.ngram_rows import said

pytestmark = pytest.mark.fast


@given(tokens, tails, st.integers(1, 12))
def test_match_is_the_longest_that_occurred_before(text: list[int], tail: list[int], limit: int):
    index = SuffixAutomaton(limit)
    index.extend(text)
    assert index.match(tail).length == longest(text, tail, limit)
    assert len(index) == len(text)


@given(tokens, tails, st.integers(1, 12))
def test_continuations_have_true_counts_and_places(text: list[int], tail: list[int], limit: int):
    """Exact, the newest token's included, for strings of up to `max_match` tokens."""
    index = SuffixAutomaton(limit)
    for i, token in enumerate(text):
        index.append(token)
        check_continuations(index, text[: i + 1], [])
    check_continuations(index, text, tail)


def check_continuations(index: SuffixAutomaton, text: list[int], tail: list[int]) -> None:
    match = index.match(tail)
    if match.length == 0:
        return
    whole = text + tail
    pattern = whole[len(whole) - match.length :]
    seen = {c.token: (c.times, c.end) for c in index.continuations(match)}
    true = followers(text, pattern)
    assert seen.keys() == true.keys()
    for token, found in seen.items():
        if match.length < index.max_match:
            assert found == true[token]
        else:  # with its continuation it is longer than what is counted
            assert all(x <= y for x, y in zip(found, true[token], strict=True))


@given(tokens, st.lists(st.integers(0, 2), min_size=1, max_size=30))
def test_a_match_can_be_followed_token_by_token(text: list[int], more: list[int]):
    """What stays of a match is the longest match again, so a tree can be grown from it."""
    index = SuffixAutomaton(8)
    index.extend(text)
    match = index.match()
    for i, token in enumerate(more):
        match = index.step(match, token)
        assert match == index.match(more[: i + 1])
        assert match.length == longest(text, more[: i + 1], 8)


@given(st.lists(tokens, max_size=6))
def test_the_text_may_come_in_pieces(pieces: list[list[int]]):
    one, other = SuffixAutomaton(8), SuffixAutomaton(8)
    for piece in pieces:
        one.extend(piece)
    for token in sum(pieces, []):
        other.append(token)
    assert said(one) == said(other)


@given(tokens, tails)
def test_tails_leave_no_trace(text: list[int], tail: list[int]):
    index, untouched = SuffixAutomaton(8), SuffixAutomaton(8)
    index.extend(text)
    untouched.extend(text)
    index.continuations(index.match(tail))
    assert said(index) == said(untouched)


def test_empty_and_unseen():
    index = SuffixAutomaton()
    assert (
        index.match() == index.match([1, 2]) == Match(0, 0)
        and index.continuations(Match(0, 0)) == []
    )
    index.append(1)
    assert index.match() == Match(0, 0)
    assert index.match([5]).length == 0


@pytest.mark.parametrize("period", [1, 2, 50, 20_000])
def test_indexing_takes_linear_time_on_the_worst_texts(period: int):
    """40,000 tokens in far less than the hours of a quadratic slip; normally 0.1 s."""
    start = time.perf_counter()
    index = SuffixAutomaton()
    index.extend(i % period for i in range(40_000))
    assert index.match().length == index.max_match
    assert time.perf_counter() - start < 10.0
