"""NGramDrafter's proposals, against brute force on short texts over few tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.drafts.none import NoDrafter
from specdec.sampling.tree import Law
from specdec.sampling.verify import Verdict

from helpers.brute_force import followers, longest, tails, tokens
from helpers.ngram_rows import drafter_of, proposal, row_of, said

pytestmark = pytest.mark.fast


@given(
    tokens.filter(len), st.integers(1, 40), st.integers(1, 4), st.integers(1, 9), st.integers(0, 9)
)
def test_proposals_are_true_continuations(text, stable, shortest, width, limit):
    """Every node follows, somewhere in the stable text, at least `min_ngram` tokens before it."""
    stable = min(stable, len(text))
    drafter = drafter_of(min_ngram=shortest, num_draft_tokens=6, draft_width=width)
    row = row_of(text, stable)
    tree = proposal(drafter, row, limit)
    depths = tree.depths()
    assert tree.tokens[0] == text[-1] and row.tokens == text
    assert max(depths) <= min(limit, 6)
    assert max(depths.count(depth) for depth in set(depths)) <= width
    for node in range(1, len(tree)):
        assert tree.laws[node] is Law.POINT and tree.proposers[node] == "ngram"
        path = text + tree.path_tokens(node)[:-1]
        match = longest(text[:stable], path[stable:], 32)
        assert match >= shortest
        assert tree.tokens[node] in followers(text[:stable], path[len(path) - match :])


@given(tokens.filter(len), st.integers(1, 40))
def test_main_branch_is_the_most_frequent_then_most_recent_continuation(text, stable):
    stable = min(stable, len(text))
    tree = proposal(drafter_of(num_draft_tokens=5), row_of(text, stable))
    path = list(text)
    for token in tree.tokens[1:]:
        match = longest(text[:stable], path[stable:], 32)
        true = followers(text[:stable], path[len(path) - match :])
        assert true[token] == max(true.values())
        path.append(token)
    assert tree.parents == list(range(-1, len(tree) - 1))
    match = longest(text[:stable], path[stable:], 32)
    assert len(tree) == 6 or match < 2  # it ends where the limit or the matches end


def test_longer_matches_win():
    text = [1, 2, 3, 9, 5, 2, 3, 7, 5, 2, 3, 7, 4, 1, 2, 3]
    assert proposal(drafter_of(num_draft_tokens=1), row_of(text)).tokens == [3, 9]
    assert proposal(drafter_of(num_draft_tokens=1, max_ngram=2), row_of(text)).tokens == [3, 7]
    assert len(proposal(drafter_of(num_draft_tokens=1, min_ngram=4), row_of(text))) == 1


def test_drafts_go_on_past_the_end_of_the_text():
    """A loop is drafted as long as asked for, though its last turn has no continuation yet."""
    tree = proposal(drafter_of(num_draft_tokens=9), row_of([8, 1, 2, 3, 1, 2, 3, 1, 2]))
    assert tree.tokens == [2, 3, 1, 2, 3, 1, 2, 3, 1, 2]


def test_side_branches_hold_the_other_continuations():
    text = [1, 2, 3, 9, 1, 2, 4, 8, 1, 2, 3, 7, 1, 2]
    tree = proposal(drafter_of(num_draft_tokens=1, draft_width=2), row_of(text))
    assert tree.tokens == [2, 3, 4] and tree.parents == [-1, 0, 0]
    assert proposal(drafter_of(), row_of(text)).tokens[:3] == [2, 3, 4]  # by costs, both pay


@given(tokens.filter(len), tails, tokens)
def test_provisional_tokens_leave_no_trace(text, tail, other):
    """What was proposed and taken back changes neither the drafts nor what is learned later."""
    one, two = drafter_of(), drafter_of()
    row, twin = row_of(text), row_of(text)
    for drafter in (one, two):
        drafter.join([row], None)
    row.tokens += tail
    proposal(one, row)
    row.tokens = text + other
    row.num_final = twin.num_final = len(text)
    twin.tokens = text + other
    assert proposal(one, row) == proposal(two, twin)
    row.num_final = twin.num_final = len(row.tokens)
    assert proposal(one, row) == proposal(two, twin)
    assert said(one._texts[0].index) == said(two._texts[0].index)


@given(st.lists(tokens.filter(len), min_size=2, max_size=4), st.data())
def test_rows_do_not_know_of_each_other(texts, data):
    """Rows of a batch, some absent now and then, draft as they would alone, but for the size.

    The pass is as wide as its widest row, so that rows settle together how many nodes pay.
    """
    together, rows = drafter_of(), [row_of(t, index=i) for i, t in enumerate(texts)]
    alone, twins = [drafter_of() for _ in texts], [row_of(t, index=i) for i, t in enumerate(texts)]
    together.join(rows, None)
    for _ in range(3):
        live = [r for r in rows if data.draw(st.booleans())]
        trees = together.propose(live, [5] * len(live))
        emitted = [data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3)) for _ in live]
        verdicts = [Verdict([0], new) for new in emitted]
        for row, tree, verdict in zip(live, trees, verdicts, strict=True):
            twin, drafter = twins[row.index], alone[row.index]
            other = proposal(drafter, twin, 5)
            size = min(len(tree), len(other))
            assert tree.cropped(size, 5) == other.cropped(size, 5)
            for r in (row, twin):
                r.tokens += verdict.tokens
                r.num_final = len(r.tokens)
            drafter.observe([twin], [tree], [verdict])
        together.observe(live, trees, verdicts)


@pytest.mark.parametrize("limit", [-1, 0, 1, 3])
def test_limits_are_kept(limit: int):
    text = [1, 2, 3, 4, 5] * 8
    assert max(proposal(drafter_of(), row_of(text), limit).depths()) == max(limit, 0)
    fixed = drafter_of(num_draft_tokens=2)
    assert max(proposal(fixed, row_of(text), limit).depths()) == max(min(limit, 2), 0)


def test_no_drafter_proposes_nothing():
    drafter, rows = NoDrafter(), [row_of([1, 2, 1, 2]), row_of([3], index=1)]
    drafter.join(rows, None)
    trees = drafter.propose(rows, [9, 9])
    assert [tree.tokens for tree in trees] == [[2], [3]]
    drafter.observe(rows, trees, [Verdict([0], [1]), Verdict([0], [1])])
