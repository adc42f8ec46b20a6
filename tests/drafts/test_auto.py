"""AutoDrafter: what it knows before the first round."""

from __future__ import annotations

import random

import pytest
import torch

from specdec import Prompt, Span
from specdec.control.acceptance import right
from specdec.control.controller import MOST, Controller, Offer
from specdec.control.costs import DraftCost, PassCosts
from specdec.control.ledger import Ledger
from specdec.drafts.auto import candidates
from specdec.drafts.auto.contest import depth_of as contest_depth
from specdec.drafts.auto.drafter import AutoDrafter
from specdec.drafts.longspec import drafter, model
from specdec.drafts.specvlm import drafter as specvlm_drafter
from specdec.drafts.specvlm import prepared as specvlm_prepared
from specdec.engine import Engine
from specdec.errors import InvalidArgument
from specdec.offload.kv_memory import KVMemory
from specdec.offload.split import Sizes
from specdec.sampling.tree import TokenTree

from helpers import hostile, longspec_models, models
from helpers.contract import AutoAndBudget, Whim

pytestmark = pytest.mark.fast

_rng = random.Random(4)
PROMPT = [_rng.randrange(models.VOCAB) for _ in range(192)]
SMALL = Sizes(window=16, block=4, room=1024, staging_bytes=4096)
SLOW = 4e6  # bytes per second: a pass over the prompt takes far longer than all else


class Small(AutoDrafter):
    Options = AutoAndBudget


class Watched(Small):
    """Counts the drafts of its self-draft that are made in `begin`."""

    rehearsed: list[int] = []

    def join(self, rows, verifier):
        (part,) = [part for part in self.parts if part.drafter.name == "shadowkv"]
        propose, calls = part.drafter.propose, []

        def counted(rows, limits):
            calls.append(limits)
            return propose(rows, limits)

        part.drafter.propose = counted
        super().join(rows, verifier)
        part.drafter.propose = propose
        self.rehearsed.append(len(calls))


@pytest.fixture
def engine():
    return Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))


def generate(engine, drafter, new=24):
    options = {} if isinstance(drafter, str) else {"budget": 12, "sink": 2, "recent": 2}
    return engine.generate(PROMPT, drafter=drafter, max_new_tokens=new, eos_token_id=[], **options)


def test_behind_a_slow_link_it_drafts_for_itself_at_once(engine):
    want = generate(engine, "none")
    engine.target.kv_memory = KVMemory("disk", link=SLOW, sizes=SMALL)
    out = generate(engine, Small)
    assert out.token_ids == want.token_ids
    first = out.stats.explanation[0]
    assert any(f"{name} (promised" in first for name in candidates.FAR)


def test_all_that_was_drafted_at_once_is_judged(engine):
    """Where KV is far the first round verifies the drafts of all; what was drawn at random for one
    could tell of another, so then there is no such round."""
    want = generate(engine, "none")
    engine.target.kv_memory = KVMemory("disk", link=SLOW / 8, sizes=SMALL)  # nodes are free
    first = generate(engine, Small)
    assert first.token_ids == want.token_ids
    drawn = engine.generate(
        PROMPT, drafter=Small, max_new_tokens=8, eos_token_id=[], temperature=1.0, seed=1,
        acceptance="rejection", budget=12, sink=2, recent=2,
    )  # fmt: skip
    assert "+" in first.stats.steps[0].proposer and "+" in first.stats.explanation[0]
    assert not any("+" in line for line in drawn.stats.explanation)


def test_how_far_a_draft_was_right():
    tree = TokenTree.chain(1, [2, 3, 4])
    assert right(tree, [2, 3, 4, 5]) == (3, 3)
    assert right(tree, [2, 9]) == (3, 1)
    assert right(tree, [2, 3]) == (2, 2), "what came after is not known yet"
    tree.add(0, 7)
    assert right(tree, [7]) == (1, 1) and right(tree, [8]) == (3, 0)


class Listed(Small):
    """Says who takes part."""

    names: list[set[str]] = []

    def join(self, rows, verifier):
        super().join(rows, verifier)
        self.names.append({part.drafter.name for part in self.parts})


@pytest.mark.parametrize(
    ("memory", "own"),
    [
        ({"tier": "device"}, ["triforce-chunks"]),
        ({"tier": "disk", "link": 1e8}, ["snapkv", "shadowkv"]),
        ({"tier": ["device", "disk"]}, ["snapkv", "shadowkv"]),
        ({"tier": "auto"}, ["triforce-chunks"]),  # it fits
    ],
    ids=str,
)
def test_those_who_draft_best_out_of_slower_memory_take_part_there(engine, memory, own):
    want, Listed.names = generate(engine, "none"), []
    engine.target.kv_memory = KVMemory(**memory, sizes=SMALL)
    assert generate(engine, Listed).token_ids == want.token_ids
    assert Listed.names == [{"ngram", *own}]


def test_nobody_who_looks_at_all_passes_is_asked_where_a_text_may_be_near(engine):
    for tier, names in (("device", set()), ("auto", {"shadowkv"}), ("disk", set(candidates.FAR))):
        engine.target.kv_memory = KVMemory(tier)
        found = candidates.candidates(engine.target, Small.Options())
        assert {part.drafter.name for part in found if part.is_far} == names


def test_drafts_are_timed_before_the_first_round_and_only_once(engine):
    Watched.rehearsed = []
    want = generate(engine, "none")
    engine.target.kv_memory = KVMemory("disk", link=2 * SLOW, sizes=SMALL)  # nobody's costs yet
    outs = [generate(engine, Watched) for _ in range(2)]
    assert Watched.rehearsed == [2, 0]
    assert [out.token_ids for out in outs] == [want.token_ids] * 2


def test_no_rehearsal_where_a_draft_has_no_room(engine):
    Watched.rehearsed = []
    engine.target.kv_memory = KVMemory("disk", link=3 * SLOW, sizes=SMALL)
    assert generate(engine, Watched, new=2).token_ids == generate(engine, "none", 2).token_ids
    assert Watched.rehearsed == [0]


class WithBlock(Small):
    """Lets only its LongSpec block draft, whatever it costs; says whether it has taken part."""

    seen: list[tuple[bool, list[bool]]] = []  # whether it was cold, and then whether it is open

    def __init__(self, target, options):
        super().__init__(target, options, Whim)
        self.parts = []

    def join(self, rows, verifier):
        super().join(rows, verifier)
        self.take_shipped()
        (part,) = self.parts
        assert part.drafter.name == "longspec" and not part.is_open
        self.was_cold = part.drafter.is_cold

    def leave(self, rows):
        self.seen.append((self.was_cold, [part.is_open for part in self.parts]))
        super().leave(rows)


def test_a_checkpoint_that_ships_is_read_once_it_is_asked(engine, tmp_path, monkeypatch):
    longspec_models.checkpoint(engine.target).save(tmp_path)
    monkeypatch.setattr(drafter, "SHIPPED", tmp_path)
    monkeypatch.setattr(Ledger, "affords", lambda *_: True)
    WithBlock.seen = []
    want = generate(engine, "none")
    assert generate(engine, WithBlock).token_ids == want.token_ids
    assert generate(engine, WithBlock).token_ids == want.token_ids

    def refuse(store, layer, device):
        raise InvalidArgument("it is in another memory")

    monkeypatch.setattr(model, "_check_near", refuse)
    assert generate(engine, WithBlock).token_ids == want.token_ids
    assert WithBlock.seen == [(True, [True]), (False, [True]), (False, [])]
    with pytest.raises(InvalidArgument, match="another memory"):
        generate(engine, "longspec")


class Seeing(Small):
    """Knows whose weights ship, and says who is offered."""

    offered: set[str] = set()

    def __init__(self, target, options):
        super().__init__(target, options, Whim)
        self.parts = []

    def join(self, rows, verifier):
        super().join(rows, verifier)
        self.take_shipped()

    def _offers(self, part, rows, limit):
        for offer in super()._offers(part, rows, limit):
            self.offered.add(part.drafter.name)
            yield offer


def test_behind_images_drafts_who_has_learned_with_them(engine, tmp_path, monkeypatch):
    """SpecVLM's block there, in LongSpec's place, and LongSpec's on text; the texts are equal."""
    longspec_models.checkpoint(engine.target).save(tmp_path / "text")
    longspec_models.image_checkpoint(engine.target).save(tmp_path / "images")
    monkeypatch.setattr(drafter, "SHIPPED", tmp_path / "text")
    for where in (specvlm_drafter, specvlm_prepared):
        monkeypatch.setattr(where, "SHIPPED", tmp_path / "images")
    monkeypatch.setattr(Ledger, "affords", lambda *_: True)
    image = Span(3, torch.randn(9, 24, dtype=torch.float64))
    for prompt, who in ((PROMPT, "longspec"), (Prompt(PROMPT[:40], [image]), "specvlm")):
        options = {"max_new_tokens": 16, "eos_token_id": []}
        want = engine.generate(prompt, drafter="none", **options)
        Seeing.offered = set()
        out = engine.generate(prompt, drafter=Seeing, **options)
        assert out.token_ids == want.token_ids
        assert Seeing.offered == {who} and out.stats.num_draft_tokens


def test_short_texts_do_not_pay_for_weights_that_nobody_asked_for(engine, tmp_path, monkeypatch):
    """They would have to be read first, which this process has not the time for."""
    longspec_models.checkpoint(engine.target).save(tmp_path)
    monkeypatch.setattr(drafter, "SHIPPED", tmp_path)
    monkeypatch.setattr(Ledger, "affords", lambda *_: False)
    monkeypatch.setattr(drafter, "LongSpec", None)  # nor is anybody made
    for _ in range(3):
        generate(engine, "auto")


def test_a_contest_is_as_deep_as_its_drafts_are_cheap():
    """All drafts of the round are waited for, and one of them is emitted."""

    def depth(per_token, acceptance=0.85):
        names = ("a", "b")
        costs = PassCosts(
            {100: {1: 1.0, 64: 1.1}},
            {f"{name} x1@7": DraftCost(per_token, 0.0, 2) for name in names},
            dict.fromkeys(names, acceptance),
        )
        offers = [Offer(name, f"{name} x1", depth=32) for name in names]
        return contest_depth(offers, 1, 100, Controller(costs))

    most = MOST // 2
    rates = {
        n: sum(0.85**i for i in range(n + 1)) / (1.0 + 0.1 / 63 * 2 * n + 2 * 0.03 * n)
        for n in range(1, most + 1)
    }
    assert depth(0.03) == max(rates, key=rates.get) < most
    assert depth(1e-5, 0.99) == most
    assert depth(1.0) < depth(0.03)
