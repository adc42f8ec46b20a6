"""How much NGramDrafter drafts: more where text repeats, hardly any where it does not."""

from __future__ import annotations

import random
import time

import pytest

from specdec.control.costs import PassCosts
from specdec.drafts.ngram.drafter import MAX_DEPTH

from helpers.ngram_rows import COSTS, drafter_of, generate, proposal, random_text, row_of

pytestmark = pytest.mark.fast


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
        row.num_final = len(row.tokens)
        return proposal(drafter, row).num_draft_tokens

    right = block[:12]
    wrong = [x for i in range(0, 24, 3) for x in (block[i], block[i + 1], -3 - i)]
    assert drafted(right) > drafted([]) > drafted(wrong)


def test_other_drafters_successes_teach_nothing():
    """Only the row's own continuations count, whoever proposed what was accepted."""
    drafter, row = drafter_of(), row_of([1, 2, 3, 4, 1, 2])
    drafter.propose([row], [8])
    row.tokens += [7, 8, 9, 5]
    row.num_final = len(row.tokens)
    drafter.propose([row], [8])
    assert drafter._texts[0].novelty > 0.0  # 3 was known to follow 1 2, and 7 came


def test_drafting_is_cheap_beside_a_pass():
    """Well under a millisecond of the processor a round, whoever else is busy on the machine."""
    chance = random.Random(3)
    text = [
        chance.choice((1, 2, 3, 4)) if chance.random() < 0.2 else i % 700 for i in range(20_000)
    ]

    def seconds():
        drafter, row = drafter_of(draft_width=4), row_of(text)
        drafter.join([row], None)
        start = time.thread_time()
        rounds = generate(drafter, row, text[:500])
        return (time.thread_time() - start) / len(rounds)

    assert min(seconds() for _ in range(3)) < 1e-3
