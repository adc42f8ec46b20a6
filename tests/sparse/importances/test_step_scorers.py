"""Step scorers against their formulas in NumPy, one query, one token after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.errors import InvalidArgument
from specdec.sparse.importances.accumulated import AccumulatedMass
from specdec.sparse.importances.base import Observed
from specdec.sparse.importances.critic import Critic
from specdec.sparse.importances.key_tokens import KeyTokens
from specdec.sparse.importances.neglect import Neglect
from specdec.sparse.importances.recurrence import Recurrence

SCORERS = {
    "h2o": AccumulatedMass(),
    "scissorhands": Neglect(window=8),
    "keyformer": KeyTokens(seed=3, step=0.3),
    "lazy-eviction": Recurrence(threshold=0.1),
    "lazy-eviction-paper": Recurrence(threshold=0.1, form="paper"),
    "critic": Critic(0.5),
}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(logits):
    """Attention `[T, T]` of each head of `logits[Hkv, G, T, T]`, causal."""
    tokens = logits.shape[-1]
    hidden = np.triu(np.ones((tokens, tokens), bool), 1)
    return softmax(np.where(hidden, -np.inf, logits))


def h2o(logits, prompt):
    return attention(logits).sum(axis=(1, 2))


def scissorhands(logits, prompt, window=8):
    mass, tokens = attention(logits).mean(axis=1), logits.shape[-1]
    score = np.zeros((len(logits), tokens))
    for h in range(len(logits)):
        for i in range(max(0, tokens - window), tokens):
            for t in range(i + 1):
                score[h, t] -= mass[h, i, t] < 1 / (i + 1)
    return score


def keyformer(logits, prompt):
    heads, group, tokens, _ = logits.shape
    noise = KeyTokens(seed=3).noise(0, heads * group, tokens, torch.device("cpu")).numpy()
    noisy = logits + noise.reshape(heads, group, 1, tokens)
    score = np.zeros((heads, tokens))
    for i in range(tokens):
        heat = min(2.0, 1 + 0.3 * max(0, i - (prompt - 1)))
        score[:, : i + 1] += softmax(noisy[:, :, i, : i + 1] / heat).sum(axis=1)
    return score


def lazy(logits, prompt, form="code"):
    mass, tokens = attention(logits).max(axis=1), logits.shape[-1]
    last = np.tile(np.arange(tokens), (len(logits), 1)).astype(float)
    gap = np.zeros_like(last)
    for h in range(len(logits)):
        for i in range(tokens):
            for t in range(i + 1):
                if mass[h, i, t] >= 0.1:
                    gap[h, t] = max(gap[h, t], i - last[h, t])
                    last[h, t] = i
    age = tokens - last
    with np.errstate(divide="ignore", over="ignore"):
        if form == "paper":
            return 2 / (1 + np.exp(age / gap)) + 2 / (1 + np.exp(1 / gap))
        second = np.where(gap == 0, 0, 2 / (1 + np.exp(gap - 1)))
        return 2 / (1 + np.exp(1 + age / (gap + 1e-5))) + second


def critic(logits, prompt):
    mass = attention(logits)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(mass > 0, mass * np.log(mass), 0)
    score = 0
    for part in (mass.sum(axis=(1, 2)), entropy.sum(axis=(1, 2))):
        low, high = part.min(-1, keepdims=True), part.max(-1, keepdims=True)
        score = score + 0.5 * (part - low) / np.where(high > low, high - low, 1)
    return score


REFERENCES = {
    "h2o": h2o,
    "scissorhands": scissorhands,
    "keyformer": keyformer,
    "lazy-eviction": lazy,
    "lazy-eviction-paper": lambda logits, prompt: lazy(logits, prompt, "paper"),
    "critic": critic,
}


def fed(scorer, logits, cuts, prompt):
    """Statistics after the queries of `logits[Hkv, G, T, T]` came in parts that end at `cuts`."""
    statistics, first = scorer.begin(len(logits), torch.zeros(0, dtype=torch.float64)), 0
    for end in cuts:
        part = logits[:, :, first:end, :end].clone()
        sees = torch.arange(end) <= torch.arange(first, end)[:, None]
        seen = Observed(part.masked_fill(~sees, -torch.inf), first, prompt)
        statistics, first = scorer.update(statistics, seen), end
    return statistics


@pytest.mark.parametrize("name", SCORERS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_step_scorer_is_its_formula_however_queries_arrive(name, data):
    tokens, heads = data.draw(st.integers(1, 24)), data.draw(st.integers(1, 3))
    group, prompt = data.draw(st.integers(1, 3)), data.draw(st.integers(1, tokens))
    seed = data.draw(st.integers(0, 1 << 20))
    cuts = sorted({*data.draw(st.lists(st.integers(1, tokens), max_size=6)), tokens})
    logits = 2 * np.random.default_rng(seed).normal(size=(heads, group, tokens, tokens))
    statistics = fed(SCORERS[name], torch.from_numpy(logits), cuts, prompt)
    assert all(x.shape[:2] == (heads, tokens) for x in statistics)
    got = SCORERS[name].scores(statistics, tokens)
    want = REFERENCES[name](logits, prompt)
    np.testing.assert_allclose(got.double().numpy(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["h2o", "scissorhands", "lazy-eviction", "critic"])
def test_replicated_query_heads_choose_as_one_does(name):
    """G = 1 and G = 3 rank tokens alike where the query heads are copies of each other."""
    one = torch.randn(2, 1, 20, 20, dtype=torch.float64, generator=torch.manual_seed(0))
    scores = []
    for logits in (one, one.expand(-1, 3, -1, -1)):
        statistics = fed(SCORERS[name], logits, [20], 20)
        scores.append(SCORERS[name].scores(statistics, 20))
    assert torch.equal(scores[0].argsort(stable=True), scores[1].argsort(stable=True))


def test_noise_is_the_token_s_own():
    """The same seed gives the same noise, longer texts the same beginning, and it is Gumbel."""
    where = torch.device("cpu")
    noise = KeyTokens(seed=7).noise(2, 4, 5000, where)
    assert torch.equal(noise[:, :33], KeyTokens(seed=7).noise(2, 4, 33, where))
    for other in (
        KeyTokens(seed=8).noise(2, 4, 33, where),
        KeyTokens(seed=7).noise(1, 4, 33, where),
    ):
        assert not torch.equal(noise[:, :33], other)
    assert not torch.equal(noise[0], noise[1])
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.03)
    assert noise.var().item() == pytest.approx(np.pi**2 / 6, abs=0.08)


def test_bad_settings():
    with pytest.raises(InvalidArgument, match="window=12"):
        Neglect(window=12)
    with pytest.raises(InvalidArgument, match="form='x'"):
        Recurrence(form="x")
