"""The controller against worlds of synthetic costs and acceptance: its regret is bounded.

A world says what passes and drafts cost and how long drafts survive; it plays a text round by round
and adds up the seconds. Nothing here runs a model, so thousands of rounds take a moment.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.acceptance import Acceptance, Trust
from specdec.calibration import settled
from specdec.controller import PLAIN, Controller, Offer
from specdec.costs import DraftCost, PassCosts, _open, open_costs
from specdec.sizes import Sizes
from specdec.tree import TokenTree

KEYS = 1000
WIDTHS = (1, 2, 4, 8, 16, 32, 64)


def flat(nodes, at=0):
    """A pass that costs hardly more for many nodes, as on a GPU."""
    return 1.0 + 0.01 * (nodes - 1)


def steep(nodes, at=0):
    """A pass whose cost grows with every node, as for a model that is bound by arithmetic."""
    return 1.0 + 0.3 * (nodes - 1)


@dataclass
class Drafter:
    """Of a world: its cost per token and its acceptance, both at a place in the text.

    instant drafters know the acceptance of the moment, up to a factor `boast`.
    """

    name: str
    cost: object  # place -> seconds per draft token
    chance: object  # place -> acceptance per token
    instant: bool = False
    boast: float = 1.0
    depth: int = 12
    read: float = 0.025  # cost of a token it missed, in costs of a draft token


@dataclass
class World:
    drafters: list[Drafter]
    passes: object = flat  # (nodes, place) -> seconds
    noise: float = 0.05  # relative, of every time
    rng: random.Random = field(default_factory=lambda: random.Random(7))

    def fixed(self, drafter, depth, tokens):
        """Seconds for a text when one drafter drafts so much in every round, in expectation."""
        place = seconds = 0.0
        while place < tokens:
            chance = drafter.chance(place) if drafter else 0.0
            seconds += self.passes(1 + depth, place)
            seconds += depth * drafter.cost(place) if drafter else 0.0
            place += sum(chance**i for i in range(depth + 1))
        return seconds

    def best_fixed(self, tokens):
        """The best of all drafters at all depths, each used throughout."""
        times = [self.fixed(d, n, tokens) for d in self.drafters for n in range(1, d.depth + 1)]
        return min(times)

    def play(self, tokens, controller=None):
        """Seconds that the controller takes, and the controller."""
        if controller is None:
            controller = Controller(self.costs())
        place = seconds = 0.0
        used = {d.name: 0 for d in self.drafters}
        while place < tokens:
            offers = [self.offer(controller, d, place - used[d.name], place) for d in self.drafters]
            plan = controller.choose(1, KEYS, offers)
            drafter = next((d for d in self.drafters if d.name == plan.name), None)
            drafted = plan.depth or plan.nodes - 1
            draft = 0.0
            if drafter:
                read = (place - used[drafter.name]) * drafter.read
                draft = (drafted + read) * drafter.cost(place) * self.jitter()
            took = self.passes(1 + drafted, place) * self.jitter()
            accepted = 0
            while drafter and accepted < drafted and self.rng.random() < drafter.chance(place):
                accepted += 1
            controller.costs.note(1 + drafted, KEYS, took)
            controller.learn(plan, KEYS, draft, draft + took, [(drafted, accepted, accepted + 1)])
            place, seconds = place + accepted + 1, seconds + draft + took
            if drafter:
                used[drafter.name] = place
        return seconds, controller

    def offer(self, controller, d, missed, place):
        if not d.instant:
            missed = int(missed) if d.read else 0
            return Offer(d.name, d.name, depth=d.depth, missed=missed, guess=0.25, given=True)
        chance = min(0.999, d.boast * d.chance(place))
        chances = [chance**i for i in range(1, d.depth + 1)]
        size = Sizes.of(controller.costs, 1, KEYS, d.depth).best([chances])
        return Offer(d.name, nodes=size, tokens=sum(chances[:size]))

    def costs(self):
        return PassCosts({KEYS: {n: self.passes(n, 0) for n in WIDTHS}})

    def jitter(self):
        return max(0.5, self.rng.gauss(1.0, self.noise))


def always(value):
    return lambda place: value


def after(change, before, later):
    """One value until a place in the text, another one from there on."""
    return lambda place: before if place < change else later


def copying_then_prose(place):
    return 0.97 if place < 500 else 0.02


WORLDS = {
    "good model": World([Drafter("model", always(0.1), always(0.8))]),
    "fair model": World([Drafter("model", always(0.15), always(0.6))]),
    "always fails": World([Drafter("model", always(0.2), always(0.0))]),
    "always fails, steep": World([Drafter("model", always(0.1), always(0.0))], passes=steep),
    "slower than the target": World([Drafter("model", always(1.3), always(0.95))]),
    "copying turns into prose": World([Drafter("copy", always(0.0), copying_then_prose, True)]),
    "prose turns into copying, told": World(
        [Drafter("copy", always(0.0), after(500, 0.05, 0.97), True, depth=40)]
    ),
    "copying turns into prose, untold": World([Drafter("model", always(0.1), copying_then_prose)]),
    "two models": World(
        [
            Drafter("small", always(0.05), always(0.5)),
            Drafter("large", always(0.3), always(0.9)),
        ]
    ),
    "copy and model": World(
        [
            Drafter("copy", always(0.0), copying_then_prose, True),
            Drafter("model", always(0.1), always(0.7)),
        ]
    ),
    "wide passes become dear": World(
        [Drafter("model", always(0.1), always(0.7))],
        passes=lambda nodes, place: (flat if place < 700 else steep)(nodes),
    ),
    "wide passes become cheap": World(
        [Drafter("copy", always(0.0), always(0.7), True)],
        passes=lambda nodes, place: (steep if place < 300 else flat)(nodes),
    ),
    "a busy machine": World(
        [Drafter("model", always(0.15), always(0.6))],
        passes=lambda nodes, place: flat(nodes) * (3.0 if 400 < place < 900 else 1.0),
    ),
    "the drafter becomes slow": World([Drafter("model", after(500, 0.05, 2.0), always(0.8))]),
    "the drafter becomes fast": World(
        [Drafter("model", after(500, 2.0, 0.05), always(0.8), read=0.0)]
    ),
    "noise": World([Drafter("model", always(0.15), always(0.4))], noise=0.3),
}
# What the best fixed choice may be better by, where that is not 5 %, and why.
ALLOWED = {
    "noise": 0.90,  # with times off by 30 % acceptance of 0.4 is told from 0.3 only slowly
    "a busy machine": 0.93,
    "wide passes become cheap": 0.80,  # no pass that wide is made, so nobody can know
}
SEEDS = range(4)
TOKENS = 2000


@pytest.mark.parametrize("name", WORLDS)
def test_regret(name):
    """At most 2 % behind plain decoding, and 5 % behind the best fixed drafter and length."""
    times = [replace(WORLDS[name], rng=random.Random(s)).play(TOKENS)[0] for s in SEEDS]
    seconds = sum(times) / len(times)
    assert WORLDS[name].fixed(None, 0, TOKENS) >= 0.98 * seconds
    assert WORLDS[name].best_fixed(TOKENS) >= ALLOWED.get(name, 0.95) * seconds


def test_a_controller_that_always_speculates_fails_these_bounds():
    """The worlds are hard enough: a fixed draft of four tokens loses in most of them."""
    lost = [
        name
        for name, world in WORLDS.items()
        if min(world.fixed(d, 4, TOKENS) for d in world.drafters)
        > 1.02 * min(world.fixed(None, 0, TOKENS), world.best_fixed(TOKENS))
    ]
    assert len(lost) >= len(WORLDS) // 2


@pytest.mark.parametrize("seed", SEEDS)
def test_it_reacts_within_ten_rounds(seed):
    """Copying turns into prose: ten rounds later nothing much is drafted, told or not."""
    for name in ("copying turns into prose", "copying turns into prose, untold"):
        _, controller = replace(WORLDS[name], rng=random.Random(seed)).play(700)
        place, later = 0, []
        for decision in controller.history:
            place += decision.tokens
            if place > 500:
                later.append(decision)
        first = [d.plan.nodes - 1 for d in controller.history[5:20]]
        assert sum(first) / len(first) > 8  # while it copies
        drafted = [0 if d.plan.is_probe else d.plan.nodes - 1 for d in later[10:]]
        assert sum(drafted) <= 0.1 * len(drafted)


@pytest.mark.parametrize("seed", SEEDS)
def test_it_wakes_within_ten_rounds_when_told(seed):
    world = replace(WORLDS["prose turns into copying, told"], rng=random.Random(seed))
    _, controller = world.play(900)
    place, later = 0, []
    for decision in controller.history:
        place += decision.tokens
        if place > 502:
            later.append(decision.plan.nodes)
    assert max(later[:10]) >= 8


def test_probes_are_bounded():
    """Of a drafter that always fails: rarely tried, ever more rarely, and never dearly."""
    world = World([Drafter("model", always(0.2), always(0.0))], noise=0.0)
    seconds, controller = world.play(3000)
    probes = [i for i, d in enumerate(controller.history) if d.plan.name == "model"]
    assert 3 <= len(probes) <= 60
    assert seconds <= 1.015 * 3000
    assert controller.credit >= -1.0


def test_a_drafter_of_no_use_at_its_best_is_left_alone():
    """Passes as dear as the target's own: not even tried unless the user brought it."""
    controller = Controller(PassCosts({KEYS: {1: 1.0, 64: 2.0}}))
    offer = Offer("self", "self", depth=8, guess=0.95)
    for _ in range(300):
        plan = controller.choose(1, KEYS, [offer])
        assert plan.name == PLAIN
        controller.learn(plan, KEYS, 0.0, 1.0, [(0, 0, 1)])


def test_reading_what_was_missed_counts():
    """A drafter that would have to read a long text first is not asked for one round's sake."""
    costs = PassCosts({KEYS: {1: 1.0, 64: 1.5}})
    costs.drafters[f"model@{KEYS.bit_length()}"] = DraftCost(0.2, 0.5, count=9)
    offer = Offer("model", "model", depth=8)
    assert Controller(costs).choose(1, KEYS, [offer]).name == "model"
    assert Controller(costs).choose(1, KEYS, [replace(offer, missed=2000)]).name == PLAIN


def test_rows_of_a_batch_share_a_pass():
    """What pays for one row need not pay for sixteen: wide passes cost more."""
    costs = PassCosts({KEYS: {1: 1.0, 16: 1.1, 32: 2.0, 64: 4.0, 256: 16.0}})
    costs.drafters[f"model@{KEYS.bit_length()}"] = DraftCost(0.02, 0.0, count=9)
    offer = Offer("model", "model", depth=8)
    assert Controller(costs).choose(1, KEYS, [offer]).depth >= 2
    assert Controller(costs).choose(16, KEYS, [offer]).depth <= 1


def test_explanations_name_choices_and_reasons():
    _, controller = WORLDS["copying turns into prose"].play(600)
    lines = controller.explain()
    assert any("copy (promised" in line for line in lines)
    assert lines[-1].startswith("rounds") and "best draft promised" in lines[-1]


# What it stands on


def sizes(*seconds, rows=1):
    """Of passes with so many seconds for 0, 1, 2 ... draft nodes a row."""
    costs = PassCosts({KEYS: {rows * (1 + n): s for n, s in enumerate(seconds)}})
    return Sizes.of(costs, rows, KEYS, len(seconds) - 1)


def test_the_best_size_weighs_tokens_against_costs():
    costs = (1.0, 1.05, 1.1, 1.15, 1.2)
    assert sizes(*costs).best([[0.9, 0.8, 0.7, 0.6]]) == 4
    assert sizes(*costs).best([[0.9, 0.8, 0.01, 0.01]]) == 2
    assert sizes(*costs).best([[0.04]]) == 0
    assert sizes(*costs, rows=2).best([[], [0.9, 0.8]]) == 2  # one row's drafts carry the padding
    assert sizes(1.0, 3.0).best([[0.9]]) == 0
    assert sizes(1.0, 3.0).best([[]]) == 0


@given(
    st.lists(st.floats(0.5, 2.0), min_size=2, max_size=12),
    st.lists(st.floats(0.01, 1.0), min_size=1, max_size=11),
)
def test_growth_stops_only_where_no_more_nodes_can_pay(seconds, chances):
    """Cutting a tree where `can_pay` says no loses nothing, whatever passes cost."""
    table, chances = sizes(*seconds), sorted(chances, reverse=True)[: len(seconds) - 1]
    tokens, kept = 1.0, []
    for n, chance in enumerate(chances):
        if not table.can_pay(n, tokens, chance):
            break
        kept.append(chance)
        tokens += chance

    def rate(size):
        return (1.0 + sum(chances[:size])) / table.seconds[size]

    assert rate(table.best([kept])) == pytest.approx(rate(table.best([chances])))


def test_a_pass_is_no_dearer_than_a_wider_one():
    assert settled({1: 2.0, 32: 3.0, 8: 1.5, 4: 1.0}) == {1: 1.0, 4: 1.0, 8: 1.5, 32: 3.0}


def test_acceptance_learns_fast_and_forgets():
    estimate = Acceptance()
    for _ in range(30):
        estimate.note(8, 8)
    assert estimate.chance(1) > 0.95 and estimate.expected(8)[8] > 6
    for _ in range(5):
        estimate.note(8, 0)
    assert estimate.chance(1) < 0.45
    for _ in range(5):
        estimate.note(1, 0)
    assert estimate.chance(1) < 0.25
    for _ in range(200):
        estimate.fade()
    assert 0.3 < estimate.chance(1) < 0.9  # an old failure is no reason for ever


def test_acceptance_tells_depths_apart():
    """Depths that are rarely reached borrow from the others."""
    estimate, rng = Acceptance(), random.Random(1)
    for _ in range(300):
        estimate.note(2, 0 if rng.random() < 0.1 else 1 if rng.random() < 0.7 else 2)
    assert estimate.chance(1) > 0.75 > 0.6 > estimate.chance(2)
    assert estimate.chance(2) < estimate.chance(7) < estimate.chance(1)


def test_trust_learns_from_trees_that_nobody_verified():
    tree = TokenTree.chain(1, [2, 3, 4])
    tree.chances = {1: 0.8, 2: 0.7, 3: 0.6}
    right, wrong = Trust(), Trust()
    for _ in range(30):
        right.note(tree, [2, 3, 4, 9])
        wrong.note(tree, [5])
    assert 1.0 <= right.factor <= 1.2
    assert wrong.factor < 0.6
    bare = Trust()
    bare.note(TokenTree.root(1), [5])
    assert bare == Trust()


def test_costs_lie_on_lines_between_what_was_measured():
    costs = PassCosts({100: {1: 1.0, 9: 2.0}, 300: {1: 2.0, 9: 4.0}})
    assert costs.seconds(5, 100) == pytest.approx(1.5)
    assert costs.seconds(1, 200) == pytest.approx(1.5)
    assert costs.seconds(5, 200) == pytest.approx(2.25)
    assert costs.seconds(17, 100) == pytest.approx(3.0)
    assert costs.seconds(1, 600) == pytest.approx(3.5)
    assert costs.seconds(1, 10) == pytest.approx(0.55)
    noisy = PassCosts({100: {1: 1.0, 8: 0.9}, 120: {1: 0.5, 8: 3.0}})
    for nodes in (1, 2, 8, 100):
        for keys in (1, 100, 110, 500, 10_000):
            assert 0.1 < noisy.seconds(nodes, keys) < 10_000


def test_notes_move_the_pass_and_its_like():
    costs = PassCosts({KEYS: {1: 1.0, 64: 1.0}})
    for _ in range(20):
        costs.note(32, KEYS, 2.0)
    assert costs.seconds(32, KEYS) == pytest.approx(2.0, rel=0.1)
    assert 1.2 < costs.seconds(1, KEYS) < 1.8  # all passes may be slower, or only wide ones
    for _ in range(20):
        costs.note(1, KEYS, 1.0)
    assert costs.seconds(1, KEYS) == pytest.approx(1.0, rel=0.1)
    costs.note(1, KEYS, 1000.0)
    assert costs.seconds(1, KEYS) < 1.3  # a single pause says little


def test_a_cold_start_is_forgotten():
    cost = DraftCost(0.3, 0.1)
    cost.note(4, 0, 40.0)
    assert cost.per_token == 10.0
    cost.note(4, 0, 0.4)
    assert cost.per_token == pytest.approx(0.1)
    for _ in range(20):
        cost.note(4, 0, 0.8)
    assert cost.per_token == pytest.approx(0.2, rel=0.05)
    for _ in range(20):
        cost.note(1, 1000, 10.2)
    assert cost.per_missed == pytest.approx(0.01, rel=0.05)


def test_costs_are_kept(tmp_path):
    about = {"model": "x", "threads": 2}
    costs = open_costs(tmp_path, about)
    costs.table[KEYS] = {1: 1.0, 8: 2.0}
    costs.draft_cost("model", KEYS, 0.1).note(2, 0, 0.6)
    costs.acceptance["model"] = 0.4
    for _ in range(50):
        costs.note(1, KEYS, 1.5)
    costs.save()
    assert open_costs(tmp_path, about) is costs
    assert open_costs(tmp_path, {**about, "threads": 1}) is not costs
    _open.cache_clear()
    again = open_costs(tmp_path, about)
    assert again is not costs
    assert (
        again.seconds(1, KEYS) == pytest.approx(costs.seconds(1, KEYS)) == pytest.approx(1.5, 0.01)
    )
    assert again.acceptance == {"model": 0.4}
    assert again.draft_cost("model", 4 * KEYS, 9.0).per_token == pytest.approx(0.3)
    assert again.measured_near(KEYS + 200) and not again.measured_near(5 * KEYS)
    assert [file.suffix for file in tmp_path.iterdir()] == [".json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"passes": {"a": {}}}', '{"passes": 3}'])
def test_a_damaged_file_is_measured_anew(tmp_path, text):
    costs = open_costs(tmp_path, {})
    costs.file.write_text(text)
    _open.cache_clear()
    assert open_costs(tmp_path, {}).table == {}


def test_a_folder_that_cannot_be_written_is_let_be(tmp_path):
    (tmp_path / "costs").write_text("a file")
    costs = open_costs(tmp_path / "costs", {})
    costs.table[KEYS] = {1: 1.0}
    costs.save()
    assert (tmp_path / "costs").read_text() == "a file"
