"""SuffixAutomaton and NGramDrafter, against brute force on short texts over few tokens."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.costs import PassCosts
from specdec.drafts.ngram import MAX_DEPTH, NGramDrafter
from specdec.drafts.none import NoDrafter
from specdec.drafts.suffix_automaton import Match, SuffixAutomaton
from specdec.options import DraftOptions
from specdec.row import Row
from specdec.tree import Law, TokenTree
from specdec.verify import Verdict, walk

tokens = st.lists(st.integers(0, 2), max_size=40)
tails = st.lists(st.integers(0, 2), max_size=8)


# The automaton


def longest(text: list[int], tail: list[int], limit: int) -> int:
    """Length of the longest suffix of text + tail that a token follows within the text."""
    whole = text + tail
    for n in range(min(len(whole), limit), 0, -1):
        if followers(text, whole[len(whole) - n :]):
            return n
    return 0


def followers(text: list[int], pattern: list[int]) -> dict[int, tuple[int, int]]:
    """token -> how often it follows `pattern` in the text, and where it last does."""
    found: dict[int, tuple[int, int]] = {}
    n = len(pattern)
    for end in range(n + 1, len(text) + 1):
        if text[end - 1 - n : end - 1] == pattern:
            count, _ = found.get(text[end - 1], (0, 0))
            found[text[end - 1]] = (count + 1, end)
    return found


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
    assert vars(one) == vars(other)


@given(tokens, tails)
def test_tails_leave_no_trace(text: list[int], tail: list[int]):
    index, untouched = SuffixAutomaton(8), SuffixAutomaton(8)
    index.extend(text)
    untouched.extend(text)
    index.continuations(index.match(tail))
    assert vars(index) == vars(untouched)


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


# The drafter


def row_of(text: Sequence[int], stable: int | None = None, index: int = 0) -> Row:
    unused: Any = None
    return Row(
        index=index,
        prompt_index=0,
        tokens=list(text),
        num_prompt_tokens=len(text),
        max_tokens=10**6,
        sampler=unused,
        stable=len(text) if stable is None else stable,
    )


# Of passes that cost a tenth of a plain step more as soon as there are drafts, and then per node.
COSTS = {10_000: {1: 1.0, 2: 1.135, 64: 1.1 + 0.035 * 63}}


def drafter_of(**options: int) -> NGramDrafter:
    drafter = NGramDrafter(None, DraftOptions(**options))
    drafter.costs = PassCosts(COSTS)
    return drafter


def proposal(drafter: NGramDrafter, row: Row, limit: int = 100) -> TokenTree:
    return drafter.propose([row], [limit])[0]


def generate(drafter: NGramDrafter, row: Row, text: Sequence[int]) -> list[tuple[int, int]]:
    """Let the target emit `text`; per round how many tokens were drafted and emitted."""
    rounds, end = [], len(row.tokens) + len(text)
    future = [*row.tokens, *text]
    while len(row.tokens) < end:
        limit = end - len(row.tokens) - 1
        tree = proposal(drafter, row, limit)
        depths, start = tree.depths(), len(row.tokens)
        verdict = walk(tree, lambda node, d=depths, s=start: future[s + d[node]])
        row.tokens += verdict.tokens
        row.stable, row.round = len(row.tokens), row.round + 1
        drafter.observe([row], [tree], [verdict])
        rounds.append((tree.num_draft_tokens, len(verdict.tokens)))
    return rounds


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
        drafter.begin([row], None)
    row.tokens += tail
    proposal(one, row)
    row.tokens = text + other
    row.stable = twin.stable = len(text)
    twin.tokens = text + other
    assert proposal(one, row) == proposal(two, twin)
    row.stable = twin.stable = len(row.tokens)
    assert proposal(one, row) == proposal(two, twin)
    assert vars(one._texts[0].index) == vars(two._texts[0].index)


@given(st.lists(tokens.filter(len), min_size=2, max_size=4), st.data())
def test_rows_do_not_know_of_each_other(texts, data):
    """Rows of a batch, some absent now and then, draft as they would alone, but for the size.

    The pass is as wide as its widest row, so that rows settle together how many nodes pay.
    """
    together, rows = drafter_of(), [row_of(t, index=i) for i, t in enumerate(texts)]
    alone, twins = [drafter_of() for _ in texts], [row_of(t, index=i) for i, t in enumerate(texts)]
    together.begin(rows, None)
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
                r.stable = len(r.tokens)
            drafter.observe([twin], [tree], [verdict])
        together.observe(live, trees, verdicts)


def test_copied_text_gets_long_drafts():
    source = random.Random(0).choices(range(1000), k=300)
    rounds = generate(drafter_of(), row_of([*source, -1]), source)
    late = rounds[5:-1]
    assert all(30 <= drafted <= MAX_DEPTH for drafted, _ in late)
    assert len(rounds) < 300 / 12


def test_dear_nodes_make_short_drafts():
    source = random.Random(0).choices(range(1000), k=300)
    for slope, least, most in ((0.0, 55, 60), (0.02, 40, 60), (0.5, 2, 20), (1.1, 0, 0)):
        drafter = drafter_of()
        drafter.costs = PassCosts({500: {1: 1.0, 64: 1.0 + 63 * slope}})
        late = generate(drafter, row_of([*source, -1]), source)[4:-1]
        assert all(least <= drafted <= most for drafted, _ in late), slope


def random_text(vocab: int, size: int) -> list[int]:
    return random.Random(vocab).choices(range(vocab), k=size)


@pytest.mark.parametrize("vocab", [50, 5000])
def test_random_text_gets_hardly_any_drafts(vocab: int):
    """Drafts that fail are not made; a round without drafts is a plain step."""
    text = random_text(vocab, 2400)
    rounds = generate(drafter_of(), row_of(text[:2000]), text[2000:])
    assert sum(drafted > 0 for drafted, _ in rounds[50:]) <= 0.05 * len(rounds[50:])


@pytest.mark.parametrize("vocab", [3, 10, 20, 30, 1000])
def test_drafts_never_cost_much_more_than_they_bring(vocab: int):
    """By the drafter's own account of costs, also where matches are mere coincidence."""
    text = random_text(vocab, 2400)
    rounds = generate(drafter_of(), row_of(text[:2000]), text[2000:])
    cost = sum(PassCosts(COSTS).seconds(1 + n, 10_000) for n, _ in rounds)
    assert cost < 1.05 * sum(emitted for _, emitted in rounds)


def test_a_quiet_drafter_wakes_when_the_text_repeats_itself():
    """It learns from tokens it did not draft, so it needs no trial drafts to wake up."""
    source, noise = random_text(1000, 200), random_text(50, 1300)
    drafter, row = drafter_of(), row_of([*source, *noise[:1000]])
    assert generate(drafter, row, noise[1000:])[-1] == (0, 1)
    rounds = generate(drafter, row, source)
    first = next(i for i, (drafted, _) in enumerate(rounds) if drafted >= 8)
    assert sum(emitted for _, emitted in rounds[:first]) < 25
    assert len(rounds) < 30


def test_success_lengthens_and_failure_shortens_the_next_draft():
    """The same match after a run of right guesses, and after a run of wrong ones."""
    block = list(range(100, 130))

    def drafted(history: list[int]) -> int:
        drafter, row = drafter_of(), row_of([*block, -1])
        generate(drafter, row, history)
        row.tokens += [-2, *block[:3]]
        row.stable = len(row.tokens)
        return proposal(drafter, row).num_draft_tokens

    right = block[:12]
    wrong = [x for i in range(0, 24, 3) for x in (block[i], block[i + 1], -3 - i)]
    assert drafted(right) > drafted([]) > drafted(wrong)


def test_other_drafters_successes_teach_nothing():
    """Only the row's own continuations count, whoever proposed what was accepted."""
    drafter, row = drafter_of(), row_of([1, 2, 3, 4, 1, 2])
    drafter.propose([row], [8])
    foreign = TokenTree.chain(2, [7, 8, 9], "model")
    row.tokens += [7, 8, 9, 5]
    row.stable = len(row.tokens)
    drafter.observe([row], [foreign], [Verdict([0, 1, 2, 3], [7, 8, 9, 5])])
    assert drafter._texts[0].novelty > 0.0  # 3 was known to follow 1 2, and 7 came


@pytest.mark.parametrize("limit", [-1, 0, 1, 3])
def test_limits_are_kept(limit: int):
    text = [1, 2, 3, 4, 5] * 8
    assert max(proposal(drafter_of(), row_of(text), limit).depths()) == max(limit, 0)
    fixed = drafter_of(num_draft_tokens=2)
    assert max(proposal(fixed, row_of(text), limit).depths()) == max(min(limit, 2), 0)


def test_drafting_is_cheap_beside_a_pass():
    """Well under a millisecond a round; the bound allows for a busy machine."""
    chance = random.Random(3)
    text = [
        chance.choice((1, 2, 3, 4)) if chance.random() < 0.2 else i % 700 for i in range(20_000)
    ]
    drafter, row = drafter_of(draft_width=4), row_of(text)
    drafter.begin([row], None)
    start = time.perf_counter()
    rounds = generate(drafter, row, text[:500])
    assert (time.perf_counter() - start) / len(rounds) < 0.02


def test_no_drafter_proposes_nothing():
    drafter, rows = NoDrafter(None, DraftOptions()), [row_of([1, 2, 1, 2]), row_of([3], index=1)]
    drafter.begin(rows, None)
    trees = drafter.propose(rows, [9, 9])
    assert [tree.tokens for tree in trees] == [[2], [3]]
    drafter.observe(rows, trees, [Verdict([0], [1]), Verdict([0], [1])])
