"""Sampled text follows the target's own law: G-tests through the whole engine.

Each test compares the joint frequencies of the first two tokens (the second is mostly inside a
draft) with the exact law of the model. A test raises a false alarm with probability 1e-6; the seeds
are fixed, so that it either does so always or never. The mutant shows that the test has power.
"""

from __future__ import annotations

import pytest
import torch
import transformers
from scipy.stats import chi2

from specdec import Engine
from specdec.sampling import sampler
from specdec.sampling.verify import Verdict, traversal

from helpers import longspec_models, models
from helpers.matrix import crossed

VOCAB, SAMPLES, ALARM = 5, 900, 1e-6
PROMPTS = [[1, 2, 3, 1, 2], [4], [0, 1, 0, 1, 0, 1, 0]]


@pytest.fixture(scope="module")
def engine():
    return Engine(models.build("llama", vocab_size=VOCAB))


@pytest.fixture(scope="module")
def draft(engine):
    return models.disturbed(engine.model, 0.12)


def law_after(engine, tokens, warpers):
    """The target's law after `tokens`, by transformers' own forward and warpers."""
    model = engine.model
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        scores = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[:, -1]
        for warper in warpers:
            scores = warper(torch.tensor([tokens]), scores)
    model.set_attn_implementation("specdec")
    return scores[0].double().softmax(-1)


def joint_law(engine, prompt, warpers):
    """`[V, V]`: the exact law of the first two tokens."""
    first = law_after(engine, prompt, warpers)
    return torch.stack([first[a] * law_after(engine, [*prompt, a], warpers) for a in range(VOCAB)])


def p_value(pairs, law):
    """G-test of observed token pairs against `law[V, V]`; impossible pairs must not occur."""
    counts = torch.zeros_like(law)
    for a, b in pairs:
        counts[a, b] += 1
    possible = law > 0
    assert counts[~possible].sum() == 0
    observed, expected = counts[possible], law[possible] * len(pairs)
    # pool what is too rare for the asymptotic law of the statistic
    rare = expected < 5
    if rare.any():
        observed = torch.cat([observed[~rare], observed[rare].sum()[None]])
        expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    seen = observed > 0
    g = 2 * (observed[seen] * (observed[seen] / expected[seen]).log()).sum().item()
    return float(chi2.sf(g, len(observed) - 1))


def pairs_of(generations):
    return [tuple(g.token_ids[:2]) for g in generations]


T = transformers
SETTINGS = {
    "plain-law": ({"temperature": 1.0}, []),
    "top_p": (
        {"temperature": 1.3, "top_p": 0.8},
        [T.TemperatureLogitsWarper(1.3), T.TopPLogitsWarper(0.8)],
    ),
    "min_p": (
        {"temperature": 1.3, "min_p": 0.15},
        [T.TemperatureLogitsWarper(1.3), T.MinPLogitsWarper(0.15)],
    ),
    "repetition_penalty": (
        {"temperature": 1.0, "repetition_penalty": 1.6},
        [T.RepetitionPenaltyLogitsProcessor(1.6)],
    ),
}
DRAFTERS = {
    "chain": {"drafter": "model"},
    "tree": {"drafter": "model", "draft_width": 3, "num_draft_tokens": 3},
    "ngram+tree": {"drafter": "ngram+model", "draft_width": 2, "min_ngram": 1},
    "cascade": {"drafter": "cascade", "num_draft_tokens": 3, "min_ngram": 1},
    "longspec": {"drafter": longspec_models.untrained, "draft_tree": "3-4"},
}


@crossed(together=1, drafter=DRAFTERS, setting=SETTINGS)
def test_rejection_samples_the_target(engine, draft, drafter, setting):
    kwargs, warpers = SETTINGS[setting]
    out = engine.generate(
        PROMPTS[0], draft_model=draft, acceptance="rejection", seed=1, max_new_tokens=3,
        num_return_sequences=SAMPLES, **DRAFTERS[drafter], **kwargs,
    )  # fmt: skip
    accepted = sum(g.stats.num_accepted_draft_tokens for g in out)
    assert 0.05 * SAMPLES < accepted < sum(g.stats.num_draft_tokens for g in out)
    assert p_value(pairs_of(out), joint_law(engine, PROMPTS[0], warpers)) > ALARM


@pytest.mark.parametrize(
    "acceptance", ["coupled", pytest.param("rejection", marks=pytest.mark.slow)]
)
def test_ragged_batch_samples_the_target(engine, draft, acceptance):
    """One batch of three prompts of different length, each with its own law."""
    out = engine.generate(
        PROMPTS, draft_model=draft, drafter="model", acceptance=acceptance, seed=2,
        max_new_tokens=3, num_return_sequences=SAMPLES // 2, temperature=1.0,
    )  # fmt: skip
    for i, prompt in enumerate(PROMPTS):
        mine = [g for g in out if g.prompt_index == i]
        assert p_value(pairs_of(mine), joint_law(engine, prompt, [])) > ALARM


def test_first_token(engine, draft):
    """One token alone: drafts are then useless, and the law must still be right."""
    out = engine.generate(
        PROMPTS[0], draft_model=draft, drafter="model", acceptance="rejection", seed=3,
        max_new_tokens=1, num_return_sequences=SAMPLES, temperature=1.0,
    )  # fmt: skip
    counts = torch.bincount(torch.tensor([g.token_ids[0] for g in out]), minlength=VOCAB)
    expected = law_after(engine, PROMPTS[0], []) * SAMPLES
    g = 2 * (counts * (counts.clamp_min(1) / expected).log()).sum().item()
    assert chi2.sf(g, VOCAB - 1) > ALARM


def test_a_biased_rule_is_caught(engine, draft, monkeypatch):
    """Drawing the recovered token from the target's law, not the residual: the released error."""

    def mutant(tree, target_probs, uniform, draw, is_final):
        verdict = traversal(tree, target_probs, uniform, draw)
        tokens = [*verdict.tokens[:-1], draw(target_probs(verdict.path[-1]))]
        final = [is_final(token) for token in tokens]
        return Verdict(verdict.path, tokens, any(final))

    monkeypatch.setattr(sampler, "traversal", mutant)
    out = engine.generate(
        PROMPTS[0], draft_model=draft, drafter="model", acceptance="rejection", seed=1,
        max_new_tokens=3, num_return_sequences=SAMPLES, temperature=1.0,
    )  # fmt: skip
    assert p_value(pairs_of(out), joint_law(engine, PROMPTS[0], [])) < ALARM
