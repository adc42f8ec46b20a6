"""How much layers and heads keep, against NumPy written from the papers' rules."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec.sparse.budgets.dense_layers import DenseLayers
from specdec.sparse.budgets.entropy_groups import entropy_groups
from specdec.sparse.budgets.entropy_stages import entropy_stages, stages
from specdec.sparse.budgets.equal_coverage import equal_coverage
from specdec.sparse.budgets.error_weighted import error_weighted
from specdec.sparse.budgets.group_pyramid import group_pyramid
from specdec.sparse.budgets.pooled_layers import pooled_layers
from specdec.sparse.budgets.sensitivity import sensitivity
from specdec.sparse.maths.spectral_entropy import spectral_entropy

layers_of_scores = st.tuples(
    st.integers(0, 1 << 20), st.integers(1, 6), st.integers(1, 30), st.integers(1, 3)
)


@given(layers_of_scores, st.floats(0.05, 1.2))
def test_prefixkv_covers_the_same_share_in_every_layer(drawn, share):
    seed, layers, tokens, _ = drawn
    rng = np.random.default_rng(seed)
    scores = [rng.random(tokens) ** rng.integers(1, 9) for _ in range(layers)]
    total = max(1, int(share * layers * tokens))
    counts = equal_coverage([torch.from_numpy(s) for s in scores], total)
    assert sum(counts) == min(total, layers * tokens)
    assert all(0 <= n <= tokens for n in counts)
    # of one share p: no layer's last token is needed less than another's next one would be
    curves = [np.cumsum(np.sort(s)[::-1]) / s.sum() for s in scores]
    lower = [c[n - 2] if n > 1 else 0.0 for c, n in zip(curves, counts, strict=True) if n]
    upper = [c[n] if n < tokens else np.inf for c, n in zip(curves, counts, strict=True)]
    assert max(lower, default=0.0) <= min(upper) + 1e-9


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(1, 400))
def test_compresskv_weighs_layers_by_their_error(errors, mean):
    total = mean * len(errors)
    counts = error_weighted(errors, total)
    least, most = min(32, mean), max(min(32, mean), 3 * mean)
    assert sum(counts) == total
    assert all(least <= n <= most for n in counts)
    order = np.argsort(errors)
    assert all(
        counts[a] <= counts[b] + 1
        for a, b in zip(order, order[1:], strict=False)
        if errors[a] < errors[b]
    )
    plain = (
        [32 + e / sum(errors) * (total - 32 * len(errors)) for e in errors] if sum(errors) else []
    )
    if plain and mean > 32 and max(plain) <= 3 * mean:  # nothing to clip: the formula, to 1
        assert max(abs(n - x) for n, x in zip(counts, plain, strict=True)) <= 1


def test_compresskv_deals_out_what_the_ceiling_leaves():
    assert error_weighted([1.0, 0, 0, 0], 400) == [300, 34, 33, 33]


def test_windowkv_shrinks_by_groups():
    """Its released settings: 32 layers in groups of 8, beta 14, capacity 1024."""
    last = 1024 * 8 // 14
    line = np.linspace(2 * 1024 - last, last, 4)
    got = group_pyramid(32, 1024)
    assert np.abs(np.array(got[::8]) - line).max() <= 2
    assert len(set(got)) == 4
    assert sum(got) <= 32 * 1024


@given(st.integers(1, 40), st.integers(1, 300), st.integers(1, 9))
def test_windowkv_keeps_the_mean(layers, mean, group):
    got = group_pyramid(layers, mean, group)
    assert len(got) == layers
    assert all(a >= b for a, b in zip(got, got[1:], strict=False))
    assert layers * (mean - 1) <= sum(got) <= layers * mean
    assert min(got) >= 0


@given(layers_of_scores, st.sampled_from([0.0, 0.2, 1.0]))
def test_layer_defensivekv_pools_all_layers(drawn, safeguard):
    seed, layers, tokens, heads = drawn
    rng = np.random.default_rng(seed)
    scores = [rng.random((heads, tokens)) * rng.random() for _ in range(layers)]
    mean = int(rng.integers(1, tokens + 1))
    own = min(tokens, int(safeguard * mean))
    want = np.full((layers, heads), own)
    rest = sorted(
        (
            (x, layer, h)
            for layer in range(layers)
            for h in range(heads)
            for x in np.sort(scores[layer][h])[::-1][own:]
        ),
        reverse=True,
    )
    for _, layer, h in rest[: layers * heads * (mean - own)]:
        want[layer, h] += 1
    got = torch.stack(pooled_layers([torch.from_numpy(s) for s in scores], mean, safeguard))
    assert got.tolist() == want.tolist()
    assert got.sum() == layers * heads * mean


@given(st.lists(st.floats(0, 3), min_size=1, max_size=9, unique=True), st.integers(1, 500))
def test_uncomp_gives_the_lower_half_of_the_heads_half(entropies, count):
    got = entropy_groups(torch.tensor(entropies, dtype=torch.float64), count).tolist()
    heads = len(entropies)
    order = np.argsort(entropies)
    weight = np.ones(heads)
    if heads > 1:
        weight[order[-(-heads // 2) :]] = 2
    want = np.floor(weight * heads * count / weight.sum() + 1e-9)
    assert got == want.tolist()
    assert sum(got) <= heads * count


def test_uncomp_begins_a_stage_where_entropy_falls():
    assert stages([5.0, 4.9, 3.5, 3.6, 2.0]) == [0, 0, 1, 1, 2]
    got = entropy_stages([5.0, 4.9, 3.5, 3.6, 2.0], 100, 20)
    allowance = (100 - 20) * 5 / (3 + 3 + 2 + 2 + 1)
    assert got == [20 + int(allowance * n) for n in (3, 3, 2, 2, 1)]
    assert sum(got) <= 500


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12), st.integers(4, 400))
def test_epicache_gives_more_to_layers_that_change_more(similarities, mean):
    got = sensitivity(similarities, mean)
    assert sum(got) <= mean * len(got)
    assert min(got) >= mean // 4
    low, high = min(similarities), max(similarities)
    if high > low:
        weights = [(1 - (s - low) / (high - low)) ** 1.1 for s in similarities]
        spare = len(got) * (mean - mean // 4)
        want = [mean // 4 + spare * w / sum(weights) for w in weights]
        assert max(abs(a - b) for a, b in zip(got, want, strict=True)) <= 1


@given(st.integers(0, 1 << 20), st.integers(2, 30), st.integers(1, 16))
def test_spectral_entropy_is_that_of_the_covariance(seed, count, top):
    x = np.random.default_rng(seed).normal(size=(count, 8))
    y = x - x.mean(0)
    y = y / np.linalg.norm(y, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(y.T @ y / count)
    values = np.sort(values / values.sum())[::-1][:top].clip(1e-300)
    want = -(values * np.log(values)).sum() / np.log(8)
    np.testing.assert_allclose(spectral_entropy(torch.from_numpy(x), top).item(), want, atol=1e-9)
    line = torch.linspace(-1, 1, 6)[:, None] * torch.ones(8)
    assert spectral_entropy(line).item() < 1e-9


@given(layers_of_scores, st.integers(1, 900))
def test_actqkv_gives_more_to_concentrated_layers(drawn, mean):
    seed, layers, pages, heads = drawn
    rng = np.random.default_rng(seed)
    scores = [rng.random((heads, pages)) ** rng.integers(1, 40) for _ in range(layers)]
    got = DenseLayers().tokens(range(layers), mean, [torch.from_numpy(s) for s in scores])
    density = []
    for score in scores:
        x = score.mean(0)
        x = np.exp((x - x.min()) / max(x.max() - x.min(), 1e-300))
        p = x / x.sum()
        density.append(np.log(max(2, pages)) / max(-(p * np.log(p)).sum(), 1e-6))
    share = np.clip(np.array(density) / np.mean(density), 32 / 46, 2)
    above = share - 32 / 46
    above *= min(1, layers * (1 - 32 / 46) / max(above.sum(), 1e-300))
    np.testing.assert_allclose(got, mean * (32 / 46 + above), atol=1 + 1e-6 * mean)
    assert sum(got) <= layers * mean
