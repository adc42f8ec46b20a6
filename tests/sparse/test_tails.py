"""A state of constant size for old tokens: linear attention by its formula, and in step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec import Engine
from specdec.decoding.cached_model import CachedModel
from specdec.forward.full_view import FullView
from specdec.sampling.tree import TokenTree
from specdec.sparse.maths.random_features import directions, log_features
from specdec.sparse.tails.feature_state import FeatureState
from specdec.sparse.tails.mean_state import MeanState
from specdec.sparse.tails.tail_state import TailKind
from specdec.sparse.tails.tail_view import TailView

from helpers import models
from helpers.passes import make_row


def test_the_mean_of_products_is_the_exponential():
    """Lemma 1 of Performer, by many features: an unbiased estimate of exp(q k)."""
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 8)) * 0.5
    w = directions(40000, 8)
    got = (log_features(torch.from_numpy(q), w) + log_features(torch.from_numpy(k), w)).exp().sum()
    assert got.item() == pytest.approx(np.exp((q * k).sum()), rel=0.03)
    runs = w[:16].view(2, 8, 8)
    gram = runs @ runs.mT
    assert (gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))).abs().max() < 1e-9


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(0, 3), st.data())
def test_a_state_is_the_sum_over_its_tokens(seed, tokens, first, data):
    """phi(q) S / phi(q) z in NumPy, however the tokens came, and after some were taken back."""
    rng, w, scale = np.random.default_rng(seed), directions(6, 4), 0.7
    k, v = rng.normal(size=(2, 2, first + tokens, 4))
    k *= 3
    q, state = rng.normal(size=(4, 3, 4)), FeatureState(6)
    ends = sorted(data.draw(st.lists(st.integers(first, first + tokens), max_size=3)))
    for end in [*ends, first + tokens]:
        state.update(*map(torch.from_numpy, (k, v)), first, end, scale)

    def phi(x):
        x = x * np.sqrt(scale)
        return np.exp(x @ w.numpy().T - (x**2).sum(-1, keepdims=True) / 2) / np.sqrt(len(w))

    o, lse = state.attend(torch.from_numpy(q), scale)
    for head in range(4):
        kv = head // 2
        weight = phi(q[head]) @ phi(k[kv, first:]).T
        want = weight @ v[kv, first:] / weight.sum(-1, keepdims=True)
        np.testing.assert_allclose(o[head], want, rtol=1e-7)
        np.testing.assert_allclose(lse[head], np.log(weight.sum(-1)), rtol=1e-7, atol=1e-9)
    back = data.draw(st.integers(first, first + tokens))
    state.update(*map(torch.from_numpy, (k, v)), first, back, scale)
    fresh = FeatureState(6)
    fresh.update(*map(torch.from_numpy, (k, v)), first, back, scale)
    if back > first:
        torch.testing.assert_close(state.mean, fresh.mean)
    assert (state.first, state.end) == (fresh.first if back > first else first, back)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(0, 3), st.data())
def test_a_mean_never_claims_more_than_its_tokens_have(seed, tokens, first, data):
    """n exp(q mean(k)), the mean value, however the tokens came; exact where all keys are equal."""
    rng, scale = np.random.default_rng(seed), 0.7
    k, v = rng.normal(size=(2, 2, first + tokens, 4))
    q, state = rng.normal(size=(4, 3, 4)), MeanState()
    ends = sorted(data.draw(st.lists(st.integers(first, first + tokens), max_size=3)))
    for end in [*ends, first + tokens]:
        state.update(*map(torch.from_numpy, (k, v)), first, end, scale)
    o, lse = state.attend(torch.from_numpy(q), scale)
    for head in range(4):
        keys, values = k[head // 2, first:], v[head // 2, first:]
        want = np.log(tokens) + scale * q[head] @ keys.mean(0)
        np.testing.assert_allclose(lse[head], want, atol=1e-9)
        np.testing.assert_allclose(o[head], np.tile(values.mean(0), (3, 1)), atol=1e-9)
        assert (want <= np.log(np.exp(scale * q[head] @ keys.T).sum(-1)) + 1e-9).all()


@torch.inference_mode()
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt-oss"])
def test_the_view_is_near_with_many_features_and_exact_with_a_long_window(name):
    target = Engine(models.build(name, head_dim=8)).target
    row = make_row(0, [(7 * i * i + 3) % 40 for i in range(90)])
    base = CachedModel(target, FullView(), [row])
    tree = TokenTree.root(row.tokens[-1])

    def logits(view):
        draft = CachedModel(target, view, [row], base=base)
        return draft.forward([row], [tree])[0], draft

    want = logits(FullView())[0]
    exact, _ = logits(TailView("lizard", 4, 90))
    torch.testing.assert_close(exact, want, rtol=0, atol=1e-9)
    near, draft = logits(TailView("lizard", 4, 16, features=64))
    assert near.isfinite().all() and (near - want).abs().max() > 1e-6
    read = draft.reads(0)["lizard"]
    assert len(read.bytes) == 1
    by_mean, _ = logits(TailView("mean", 4, 16))
    assert by_mean.isfinite().all() and (by_mean - want).abs().max() > 1e-6
    state = draft.store.levels[0].beside[TailKind(target.full_layers[0], 4, 16, 64)]
    assert (
        state.nbytes == state.rows[0].nbytes == 2 * 64 * (8 + 1) * 8
    )  # whatever the text's length
    state.crop(0, 10)
    assert state.nbytes == 0
    again, _ = logits(TailView("lizard", 4, 16, features=64))
    torch.testing.assert_close(again, near, rtol=0, atol=1e-9)
