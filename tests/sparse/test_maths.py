"""Shared maths against NumPy and the models' own rotations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec import Engine
from specdec.errors import UnsupportedModel
from specdec.forward.full_view import FullView
from specdec.sparse.maths.hadamard import hadamard
from specdec.sparse.maths.key_rotation import KeyRotation
from specdec.sparse.maths.low_rank import directions, power_iteration
from specdec.sparse.maths.merging import nearest, scatter_mean, slerp

from helpers import models

seeds = st.integers(0, 2**31)


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from([1, 2, 8, 64]), st.integers(1, 3))
def test_hadamard_is_sylvesters_matrix(seed, size, runs):
    h = np.ones((1, 1))
    while len(h) < size:
        h = np.block([[h, h], [h, -h]])
    x = np.random.default_rng(seed).normal(size=(3, runs * size))
    want = (x.reshape(3, runs, size) @ (h / np.sqrt(size))).reshape(x.shape)
    got = hadamard(torch.from_numpy(x), size)
    np.testing.assert_allclose(got, want, atol=1e-12)
    np.testing.assert_allclose(hadamard(got, size), x, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_low_rank_is_near_the_best(seed, n, dim, rank):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim)) * 2.0 ** -np.arange(dim)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    best = np.sqrt((s[rank:] ** 2).sum())
    p = directions(torch.from_numpy(x.T @ x), min(rank, dim)).numpy()
    assert np.linalg.norm(x - x @ p @ p.T) == pytest.approx(best, rel=1e-6, abs=1e-6)
    a, b = (m.numpy() for m in power_iteration(torch.from_numpy(x)[None], rank, 3))
    gap = np.linalg.norm(x - a[0] @ b[0].T)
    assert best - 1e-9 <= gap <= 2 * best + 1e-9  # three loops: near, for any start
    same = power_iteration(torch.from_numpy(x)[None], rank, 3)
    assert np.array_equal(same[0].numpy(), a)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 12), st.integers(1, 5))
def test_means_and_neighbours(seed, n, groups):
    rng = np.random.default_rng(seed)
    x, group = rng.normal(size=(2, n, 4)), rng.integers(0, groups, (2, n))
    weight = rng.random((2, n)) * (rng.random((2, n)) < 0.7)
    mean, total = scatter_mean(*map(torch.from_numpy, (x, group)), groups, torch.from_numpy(weight))
    for h in range(2):
        for g in range(groups):
            w = weight[h] * (group[h] == g)
            assert total[h, g].item() == pytest.approx(w.sum())
            want = (w[:, None] * x[h]).sum(0) / w.sum() if w.sum() else np.zeros(4)
            np.testing.assert_allclose(mean[h, g], want, atol=1e-12)
    among = rng.normal(size=(2, 3, 4))
    for h in range(2):
        cos = x[h] @ among[h].T / np.linalg.norm(among[h], axis=1)
        got = nearest(torch.from_numpy(x), torch.from_numpy(among))[h].numpy()
        assert np.array_equal(got, cos.argmax(1))


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(0, 1))
def test_slerp_keeps_to_the_arc(seed, t):
    a, b = (x / np.linalg.norm(x) for x in np.random.default_rng(seed).normal(size=(2, 5)))
    angle = np.arccos(a @ b)
    got = slerp(torch.from_numpy(a), torch.from_numpy(b), t).numpy()
    assert np.arccos(np.clip(a @ got, -1, 1)) == pytest.approx(t * angle, abs=1e-6)
    assert np.arccos(np.clip(b @ got, -1, 1)) == pytest.approx((1 - t) * angle, abs=1e-6)
    same = slerp(torch.from_numpy(a), torch.from_numpy(a), t)
    np.testing.assert_allclose(same, a, atol=1e-9)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt-oss", "phi3", "qwen3"])
@torch.inference_mode()
def test_rotation_is_the_models_own(name):
    """Equal tokens have equal keys before rotation in the first layer, whatever their positions."""
    target = Engine(models.build(name)).target
    store = target.new_store(1, 12)
    target.prefill(store, FullView(), 0, [3] * 12)
    rotation, positions = KeyRotation.of(target, "x"), torch.arange(12)
    cached = store.levels[0].k[0][0, :, :12]
    before = rotation.turn_back(cached, positions, 0)
    torch.testing.assert_close(before, before[:, :1].expand_as(before), rtol=0, atol=1e-5)
    assert (cached - cached[:, :1]).abs().max() > 0.1
    torch.testing.assert_close(rotation.turn(before, positions, 0), cached, rtol=0, atol=1e-9)


@torch.inference_mode()
def test_a_scaled_rotation_is_undone(name="llama"):
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
            "original_max_position_embeddings": 64}  # fmt: skip
    target = Engine(models.build(name, rope_parameters=rope)).target
    rotation, k = KeyRotation.of(target, "x"), torch.randn(2, 9, 8, dtype=torch.float64)
    turned = rotation.turn(k, torch.arange(9), 0)
    assert turned.norm() > 1.05 * k.norm()  # YaRN makes keys longer
    torch.testing.assert_close(rotation.turn_back(turned, torch.arange(9), 0), k)


def test_a_rotation_that_is_not_found_is_refused():
    target = Engine(models.build("llama")).target
    target.model.base_model.turning = target.model.base_model.rotary_emb
    del target.model.base_model.rotary_emb
    with pytest.raises(UnsupportedModel, match="how keys are rotated"):
        KeyRotation.of(target, "cskv")
