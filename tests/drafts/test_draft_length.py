"""Drafts are as long as pays where a pass waits for keys and values, else as long as ever."""

from __future__ import annotations

import random

import pytest

from specdec.control.costs import DraftCost, PassCosts
from specdec.control.draft_length import FAR_DEPTH, KNOWN, DraftLength
from specdec.drafts.methods.triforce import DEPTH as TRIFORCE_DEPTH
from specdec.drafts.model import DEPTH
from specdec.engine import Engine
from specdec.offload.kv_memory import KVMemory
from specdec.offload.split import Sizes

from helpers import hostile, models

_rng = random.Random(5)
PROMPT = [_rng.randrange(models.VOCAB) for _ in range(192)]
SMALL = Sizes(window=16, block=4, room=1024, staging_bytes=4096)
VIEWS = {  # each is nearly always right here
    "kivi": {"kv_bits": 8, "recent": 8, "kv_group": 32},
    "streaming": {"budget": 170},
    "triforce": {"budget": 170},
}


@pytest.fixture
def engine(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECDEC_CACHE", str(tmp_path))
    return Engine(models.build("llama", head_dim=32), hostile.tokenizer(models.VOCAB))


def far(engine, monkeypatch, rate=1e4):
    """Behind a tier whose clock is what it has moved, so that a pass waits and a draft does not."""
    memory = engine.target.kv_memory = KVMemory("disk", link=1e12, sizes=SMALL)
    ticks = iter(range(1 << 62))
    monkeypatch.setattr(
        engine.target, "clock", lambda: memory.pace.moved / rate + 1e-3 * next(ticks)
    )


def run(engine, drafter, **options):
    """Tokens, and the draft tokens of each round but those that the text's end has cut short."""
    given = {"max_new_tokens": 64, "eos_token_id": [], **VIEWS[drafter], **options}
    out = engine.generate(PROMPT, drafter=drafter, **given)
    left, depths = 64, []
    for step in out.stats.steps:
        if left > FAR_DEPTH:
            depths.append(step.nodes)
        left -= step.emitted
    return out.token_ids, depths


@pytest.mark.parametrize(
    "drafter", ["kivi", "triforce", pytest.param("streaming", marks=pytest.mark.slow)]
)
def test_behind_a_slow_tier_drafts_grow_and_are_bounded(engine, monkeypatch, drafter):
    want, near = run(engine, drafter)
    usual = TRIFORCE_DEPTH if drafter == "triforce" else DEPTH
    assert near and max(near) <= usual, "near KV keeps its own"
    far(engine, monkeypatch)
    text, depths = run(engine, drafter)
    assert text == want
    assert usual < max(depths) <= FAR_DEPTH
    again, more = run(engine, drafter)  # what was learned serves the next call from its start
    assert again == want and more[0] > usual
    assert len(depths) < len(near)


def test_a_number_that_was_given_stays(engine, monkeypatch):
    want, _ = run(engine, "kivi")
    far(engine, monkeypatch)
    for options in ({"num_draft_tokens": 3}, {"draft_width": 1}, {"draft_tree": (1, 1)}):
        text, depths = run(engine, "kivi", **options)
        most = options.get("num_draft_tokens") or len(options.get("draft_tree", ())) or DEPTH
        assert text == want and max(depths) == most


def test_what_is_drawn_at_random_does_not_depend_on_the_clock(engine, monkeypatch):
    """Under rejection a seed's text is made of the random numbers that its drafts have used."""
    options = {"temperature": 1.0, "seed": 3, "acceptance": "rejection"}
    near, _ = run(engine, "kivi", **options)
    far(engine, monkeypatch)
    text, depths = run(engine, "kivi", **options)
    assert text == near and max(depths) <= DEPTH


def length(passes, per_token, acceptance):
    costs = PassCosts({100: passes}, {"x@7": DraftCost(per_token, 0.0, KNOWN)}, {"x": acceptance})
    return DraftLength(costs, "x", "x", DEPTH, clock=lambda: 0.0).best(1, 100)


def test_the_length_is_what_promises_most_tokens_per_second():
    """Against every length, by the formula."""
    flat, steep = {1: 1.0, 64: 1.1}, {1: 0.01, 64: 0.64}
    for passes, per_token, acceptance in (
        (flat, 0.001, 0.9), (flat, 0.05, 0.9), (flat, 0.05, 0.3), (steep, 0.02, 0.6),
    ):  # fmt: skip
        slope = (passes[64] - passes[1]) / 63
        rates = {
            n: sum(acceptance**i for i in range(n + 1)) / (passes[1] + n * (slope + per_token))
            for n in range(1, FAR_DEPTH + 1)
        }
        assert length(passes, per_token, acceptance) == max(rates, key=rates.get)
    assert length(flat, 1e-4, 0.99) == FAR_DEPTH
    assert length(steep, 0.02, 0.6) == 1
