"""Verification of whole batches by kernels: what the host decides row by row, on the CPU here."""

from __future__ import annotations

import random

import pytest
import torch

from specdec import Engine
from specdec.kernels.sampling import verify_trees
from specdec.kernels.sampling.verify_trees import traverse_trees
from specdec.sampling import device_verify
from specdec.sampling.tree import Law

from helpers import fused, hostile, models
from helpers.enumeration import EXACT, KINDS, Tables, grow, outcomes, shapes, unknown_after
from helpers.matrix import crossed

PROMPTS = [[1, 2, 3, 4, 5], [7], [3, 4] * 6, [9, 8, 7, 9, 8, 7, 9]]
DRAFTERS = {
    "none": {"drafter": "none"},
    "ngram": {"drafter": "ngram", "min_ngram": 1},
    "model": {"drafter": "model"},
    "tree": {"drafter": "model", "draft_width": 3},
    "both": {
        "drafter": "ngram+model",
        "draft_width": 3,
        "min_ngram": 1,
        "num_draft_tokens": 4,
    },
    "bushy": {"drafter": hostile.Bushy},
}
CONTROLS = {
    "greedy": {},
    "sampled": {"temperature": 0.9, "seed": 3},
    "seed beyond 63 bits": {"temperature": 1.0, "seed": (1 << 64) - 3},
    "all": {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "seed": 6},
    "samples": {"temperature": 1.0, "seed": 1, "num_return_sequences": 2, "top_p": 0.7},
    "eos": {"temperature": 1.0, "eos_token_id": [2, 9], "seed": 11},
}


@pytest.fixture(scope="module")
def engine():
    return Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))


@pytest.fixture(scope="module")
def draft(engine):
    return models.disturbed(engine.model, 0.03)


def outcome(generations):
    """What was said; and how it was accepted, where the clock has no say in the drafts."""
    return [
        (g.token_ids, g.finish_reason, g.text, g.drafter == "model" and g.stats.accepted)
        for g in generations
    ]


@crossed(together=1, drafter=DRAFTERS, controls=CONTROLS, acceptance=["coupled", "rejection"])
def test_the_same_text_as_by_the_host(engine, draft, drafter, controls, acceptance, monkeypatch):
    """Every verdict of the kernels' plain twins is the host's: tokens, ends and acceptance."""
    kwargs = {**DRAFTERS[drafter], **CONTROLS[controls], "acceptance": acceptance}
    if drafter in ("model", "tree", "both"):
        kwargs["draft_model"] = draft
    want = engine.generate(PROMPTS, max_new_tokens=24, **kwargs)
    calls, verify = [], device_verify.verify
    monkeypatch.setattr(device_verify, "has_kernels", lambda logits: True)
    monkeypatch.setattr(device_verify, "verify", lambda *a: calls.append(1) or verify(*a))
    assert outcome(engine.generate(PROMPTS, max_new_tokens=24, **kwargs)) == outcome(want)
    assert calls


@pytest.mark.parametrize(
    "controls",
    [{"repetition_penalty": 1.3}, {"typical_p": 0.5, "temperature": 1.0}, {"logit_bias": {3: 1.0}}],
)
def test_other_processors_stay_on_the_host(engine, controls, monkeypatch):
    monkeypatch.setattr(device_verify, "has_kernels", lambda logits: True)
    monkeypatch.setattr(device_verify, "verify", None)
    engine.generate(PROMPTS, max_new_tokens=3, seed=1, drafter="none", **controls)


@pytest.mark.parametrize("kind", KINDS)
def test_traversal_keeps_the_target_law(kind):
    """Every tree of up to four nodes, every way to draw it: the op is the rule, by enumeration."""
    source, tried = random.Random(5), 0
    for nodes in (2, 3, 4):
        for parents in shapes(nodes):
            tables = Tables(3, tried, kind)
            how = [source.choice(("point", "draw", "repeat", "iid")) for _ in parents[1:]]
            drawn = outcomes(lambda choices: grow(choices, parents, how, tables.draft))
            for _, tree in list(drawn)[:6]:
                for law in (tables.target, unknown_after(1, tables.target)):
                    assert fused.prove(traverse_trees.plain, tree, law, 3) < EXACT
                tried += 1
    assert tried >= 8


def test_laws_have_the_numbers_of_trees():
    assert {law.name: int(law) for law in verify_trees.Law} == {x.name: int(x) for x in Law}


def test_a_wrong_rule_is_noticed():
    """The proof fails for a rule that does not scale the target's law by what is owed."""

    def wrong(target, draft, tokens, parents, laws, tests):
        paths, used = traverse_trees.plain(target, draft, tokens, parents, laws, tests)
        target.copy_(target.sqrt() / target.sqrt().sum(-1, keepdim=True))
        return paths, used

    tables = Tables(3, 0)
    tree = next(
        tree
        for _, tree in outcomes(lambda c: grow(c, (-1, 0, 0), ["draw"] * 2, tables.draft))
        if len(tree) == 3
    )
    assert fused.prove(wrong, tree, tables.target, 3) > 1e-3
    assert torch.isfinite(tables.target(())).all()
