"""What the controller stands on: costs of passes and drafts, sizes, acceptance and trust."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec.control.acceptance import IDLE, Acceptance, Trust
from specdec.control.calibration import calibrate, settled
from specdec.control.costs import DraftCost, PassCosts, _open, open_costs
from specdec.control.ledger import Ledger
from specdec.control.sizes import Sizes
from specdec.sampling.tree import TokenTree

from helpers.worlds import KEYS

pytestmark = pytest.mark.fast


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
    """Cutting a tree where its `arrays` say no loses nothing, whatever passes cost."""
    table, chances = sizes(*seconds), sorted(chances, reverse=True)[: len(seconds) - 1]
    tokens, kept = 1.0, []
    costs, slopes = table.arrays
    for n, chance in enumerate(chances):
        if not chance * costs[n] > tokens * slopes[n]:
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
        estimate.fade(IDLE)
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
    costs.table[KEYS] = {8: 2.0, 1: 1.0}  # as they were measured, in no order
    costs.draft_cost("model", KEYS, 0.1).note(2, 0, 0.6)
    costs.acceptance["model"] = 0.4
    for _ in range(50):
        costs.note(1, KEYS, 1.5)
    costs.setups["weights"] = 0.2
    costs.ledger.note(10.0, lost=0.05)
    costs.save()
    assert open_costs(tmp_path, about) is costs
    assert open_costs(tmp_path, {**about, "threads": 1}) is not costs
    _open.cache_clear()
    again = open_costs(tmp_path, about)
    assert again is not costs
    assert (
        again.seconds(1, KEYS) == pytest.approx(costs.seconds(1, KEYS)) == pytest.approx(1.5, 0.01)
    )
    assert again.seconds(8, KEYS) == pytest.approx(costs.seconds(8, KEYS))
    assert again.acceptance == {"model": 0.4} and again.setups == {"weights": 0.2}
    assert again.ledger == Ledger(10.0, pytest.approx(0.02))
    assert again.draft_cost("model", 4 * KEYS, 9.0).per_token == pytest.approx(0.3)
    assert again.measured_near(KEYS + 200) and not again.measured_near(5 * KEYS)
    assert [file.suffix for file in tmp_path.iterdir()] == [".json"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"passes": {"a": {}}}', '{"passes": 3}', '{"passes": {"9": {"1": -1.0}}}'],
)
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


@pytest.mark.parametrize(("places", "second"), [("", 4), ("disk 2", 32)])
def test_two_widths_are_measured_however_slow_passes_are(places, second):
    """Where passes wait for a link the second is a wide one: 1 and 4 nodes differ by noise."""
    now = [0.0]

    def forward(rows, trees):
        now[0] += 1.0
        return [torch.zeros(len(tree), 3) for tree in trees]

    costs = PassCosts()
    target = SimpleNamespace(clock=lambda: now[0], max_positions=1000)
    model = SimpleNamespace(
        target=target, view=SimpleNamespace(lossless=True), costs=costs, forward=forward,
        store=SimpleNamespace(places=places),
    )  # fmt: skip
    assert calibrate(model, [SimpleNamespace(tokens=[1, 2, 3])]) == now[0]
    assert [sorted(row) for row in costs.table.values()] == [[1, second]]
