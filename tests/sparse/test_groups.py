"""Clusters and groups of tokens, against loops over one row after the other."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.sparse.maths.groups import best_tokens, sizes
from specdec.sparse.maths.kmeans import kmeans


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_kmeans_is_lloyds_algorithm(data):
    heads, n, spherical = (
        data.draw(st.integers(1, 2)),
        data.draw(st.integers(1, 30)),
        data.draw(st.booleans()),
    )
    clusters, loops = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    x = np.random.default_rng(data.draw(st.integers(0, 1 << 20))).normal(size=(heads, n, 5))
    got, means = kmeans(torch.from_numpy(x), clusters, loops, spherical)
    clusters = min(clusters, n)
    for h in range(heads):
        mean = x[h, [c * n // clusters for c in range(clusters)]].copy()
        for _ in range(loops):
            if spherical:
                near = [[row @ m / np.linalg.norm(m) for m in mean] for row in x[h]]
            else:
                near = [[-np.sum((row - m) ** 2) for m in mean] for row in x[h]]
            want = np.argmax(near, axis=1)
            for c in range(clusters):
                if (want == c).any():
                    mean[c] = x[h, want == c].mean(0)
        assert got[h].tolist() == want.tolist()
        np.testing.assert_allclose(means[h], mean, atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_best_groups_fill_a_budget_exactly(data):
    heads, tokens = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 25))
    groups, count = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    score, group = rng.random((heads, groups)), rng.integers(-1, groups, (heads, tokens))
    score[rng.random(score.shape) < 0.2] = -np.inf
    got = best_tokens(*map(torch.from_numpy, (score, group)), count).tolist()
    for h in range(heads):
        want = []
        for u in sorted(range(groups), key=lambda u: -score[h, u]):
            if score[h, u] > -np.inf:
                want += [t for t in range(tokens) if group[h, t] == u]
        want = (want + [-1] * tokens)[: min(count, tokens)]
        assert got[h] == want
    counted = sizes(torch.from_numpy(group), groups)
    assert counted.tolist() == [[int((row == u).sum()) for u in range(groups)] for row in group]
