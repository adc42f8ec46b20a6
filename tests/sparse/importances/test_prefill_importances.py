"""What judges a prompt's tokens, against NumPy written from the papers' formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec.sparse.importances.column_sums import per_sight
from specdec.sparse.importances.crush import ANCHORS, Crush
from specdec.sparse.importances.global_local import global_local
from specdec.sparse.importances.look_once import LookOnce
from specdec.sparse.importances.semantic_votes import votes
from specdec.sparse.importances.window_means import WindowMeans
from specdec.sparse.importances.worst_case import WorstCase, value_norms
from specdec.sparse.maths.window_scores import window_scores


@st.composite
def texts(draw):
    """A window's queries q[Hkv, G, w, D], keys and values k, v[Hkv, S, D], and positions."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    heads, group, tokens = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 40)),
    )
    window = draw(st.integers(1, min(tokens, 6)))
    q = rng.normal(size=(heads, group, window, 8))
    k, v = rng.normal(size=(2, heads, tokens, 8))
    positions = np.sort(rng.choice(tokens, window, replace=False))
    return q, k, v, positions


def probabilities(q, k, positions):
    out = np.zeros((*q.shape[:3], k.shape[1]))
    for h, g, i in np.ndindex(*q.shape[:3]):
        seen = positions[i] + 1
        e = np.exp(q[h, g, i] @ k[h, :seen].T / np.sqrt(8))
        out[h, g, i, :seen] = e / e.sum()
    return out


def smoothed(x, width):
    """Means over the neighbours that are there."""
    half, n = width // 2, x.shape[-1]
    return np.stack([x[..., max(0, t - half) : t + half + 1].mean(-1) for t in range(n)], axis=-1)


def tensors(*arrays):
    return tuple(map(torch.from_numpy, arrays))


@given(texts())
def test_window_scores_are_a_causal_softmax(text):
    q, k, _, positions = text
    got = window_scores(*tensors(q, k), 8**-0.5, torch.from_numpy(positions))
    np.testing.assert_allclose(got, probabilities(q, k, positions), atol=1e-12)


@given(texts())
def test_groups_agree_with_keys_repeated_for_every_head(text):
    """Section 6, item 9: G query heads of one KV head, or as many KV heads with equal keys."""
    q, k, _, positions = text
    at, (heads, group) = torch.from_numpy(positions), q.shape[:2]
    grouped = window_scores(*tensors(q, k), 1.0, at)
    single = q.reshape(heads * group, 1, *q.shape[2:])
    apart = window_scores(*tensors(single, np.repeat(k, group, axis=0)), 1.0, at)
    torch.testing.assert_close(grouped.flatten(0, 1), apart[:, 0])


@given(texts(), st.sampled_from([0.25, 0.5, 1.0]))
def test_mpcache_keeps_what_some_query_looks_at(text, keep):
    q, k, _, positions = text
    a = probabilities(q, k, positions)
    most = a.mean(axis=(0, 1)).max(axis=0)
    best = np.argsort(-most, kind="stable")[: max(1, int(np.ceil(keep * len(most))))]
    kept = LookOnce(keep).kept(torch.from_numpy(a))
    assert sorted(best) == kept.nonzero()[:, 0].tolist()


@given(texts(), st.data())
def test_compresskv_lets_some_heads_vote(text, data):
    q, k, _, positions = text
    a = probabilities(q, k, positions)
    every = a.reshape(-1, *a.shape[2:])
    chosen = data.draw(
        st.lists(st.integers(0, len(every) - 1), min_size=1, max_size=4, unique=True)
    )
    want = smoothed(sum(every[h].sum(axis=0) for h in chosen) / len(chosen), 5)
    got = votes(torch.from_numpy(a), torch.tensor(chosen), 5)
    np.testing.assert_allclose(got, want, atol=1e-12)


@given(texts(), st.booleans())
def test_defensivekv_takes_the_worst_case(text, corrected):
    q, k, v, positions = text
    a = probabilities(q, k, positions)
    heads, group, window, tokens = a.shape
    output = np.random.default_rng(0).normal(size=(heads, group, 8, 5))
    norm = np.array(
        [
            [
                np.mean([np.abs(v[h, t] @ output[h, g]).sum() for g in range(group)])
                for t in range(tokens)
            ]
            for h in range(heads)
        ]
    )
    want = np.zeros((heads, tokens))
    for h in range(heads):
        risk = np.zeros(tokens)
        for g in range(group):
            for i in range(window):
                p = smoothed(a[h, g, i], 5)
                risk = np.maximum(risk, p / p.sum() * a[h, g, i].sum())
        want[h] = np.maximum(risk, risk.mean())
    if corrected:
        want = want * norm / norm.sum(axis=0)
    first = np.zeros((heads, tokens), bool)
    for h in range(heads):
        mean, held = a[h].mean(axis=(0, 1)), 0.0
        for t in np.argsort(-mean, kind="stable"):
            held += mean[t]
            if held >= 0.9 * mean.sum():
                break
            first[h, t] = True
    got = (
        WorstCase()
        .score(torch.from_numpy(a), value_norms(*tensors(v, output)) if corrected else None)
        .numpy()
    )
    np.testing.assert_allclose(got, want + want.max() * first, atol=1e-12)
    if first.any() and not first.all():
        assert got[first].min() >= got[~first].max()


@given(texts())
def test_column_sums_are_by_the_queries_that_see_a_token(text):
    q, k, _, positions = text
    a = probabilities(q, k, positions)
    count = np.array([sum(p >= t for p in positions) for t in range(a.shape[-1])])
    want = np.where(count > 0, a.sum(axis=2) / np.maximum(1, count), 0)
    a_, at = tensors(a, positions)
    got = per_sight(a_.sum(dim=2), at)
    np.testing.assert_allclose(got, want, atol=1e-12)


@given(texts(), st.booleans())
def test_windowkv_judges_windows(text, locating):
    q, k, _, positions = text
    a = probabilities(q, k, positions)
    tokens = a.sum(axis=2).mean(axis=(0, 1))
    want = []
    for at in range(0, len(tokens) // 8 * 8, 8):
        ranked = np.sort(tokens[at : at + 8])[::-1]
        want.append(ranked[:4].mean() if locating else ranked.mean())
    got = WindowMeans(8, locating).score(torch.from_numpy(a))
    np.testing.assert_allclose(got, want, atol=1e-12)


@given(texts())
def test_ems_takes_the_greater_of_both(text):
    q, k, _, positions = text
    a = probabilities(q, k, positions)
    overall, window = a.sum(axis=(1, 2)), a[:, :, -1:].sum(axis=(1, 2))
    want = np.maximum(
        overall / overall.mean(-1, keepdims=True), window / window.mean(-1, keepdims=True)
    )
    np.testing.assert_allclose(global_local(*tensors(overall, window)), want, rtol=1e-12)


@given(st.data())
def test_kvcrush_replaces_the_worst_by_representatives(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    heads, tokens = data.draw(st.integers(1, 5)), data.draw(st.integers(2, 40))
    count = data.draw(st.integers(1, tokens))
    share, anchor = data.draw(st.sampled_from([0.0, 0.2, 0.5])), data.draw(st.sampled_from(ANCHORS))
    score = rng.random((heads, tokens))
    ranked = np.argsort(-score, axis=1)
    extra = min(int(share * count), tokens - count)
    bits = np.zeros((heads, tokens), bool)
    for h in range(heads):
        bits[h, ranked[h, :count]] = True
    want = []
    for h in range(heads):
        left = [t for t in range(tokens) if not bits[h, t]]
        votes = bits[:, left].mean(axis=1) if left else np.zeros(heads)
        point = {
            "majority": votes > 0.5,
            "ones": np.ones(heads, bool),
            "zeros": np.zeros(heads, bool),
            "alternating": np.arange(heads) % 2 == 0,
        }[anchor]
        ordered = sorted(left, key=lambda t: int((bits[:, t] != point).sum()))
        picked = [ordered[i * len(ordered) // extra] for i in range(extra)]
        want.append([*ranked[h, : count - extra], *picked])
    got = Crush(None, count, share=share, anchor=anchor).choose(torch.from_numpy(score), count)
    assert got.tolist() == want
    assert all(len(set(row)) == count for row in got.tolist())


@pytest.mark.parametrize("what", ["one head", "one token"])
def test_the_smallest_texts_have_scores(what):
    """Nothing is divided by 0 where all is alike, or where there is but one of all."""
    tokens = 1 if what == "one token" else 9
    a = torch.full((1, 1, 1, tokens), 1 / tokens, dtype=torch.float64)
    for score in (
        WorstCase().score(a, torch.ones(1, tokens, dtype=torch.float64)),
        LookOnce().score(a),
        votes(a, torch.tensor([0])),
        global_local(a[:, 0, 0], a[:, 0, 0]),
    ):
        assert score.isfinite().all()
