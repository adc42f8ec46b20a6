"""Clusters and groups of tokens, against loops over one row after the other."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.sparse.groupings.clusters import sorted_by
from specdec.sparse.maths.groups import Groups
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
    """Two texts counted through, groups of any size, some empty, some never read."""
    heads, count = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    of, parts, before = [], [], 0
    for _ in range(data.draw(st.integers(1, 2))):
        tokens, groups = data.draw(st.integers(1, 15)), data.draw(st.integers(1, 6))
        own = rng.integers(0, groups, (heads, tokens))
        parts.append(Groups(*sorted_by(torch.from_numpy(own), groups)))
        of.append(own + before)
        before += groups
    of = np.concatenate(of, axis=1)
    tokens, score = of.shape[1], rng.random((heads, before))
    score[rng.random(score.shape) < 0.2] = -np.inf
    first = data.draw(st.integers(0, tokens))
    last = data.draw(st.integers(0, tokens - first))
    joined = Groups.joined(parts)
    got = joined.best(torch.from_numpy(score), count, first, last).tolist()
    forced = [*range(first), *range(tokens - last, tokens)]
    for h in range(heads):
        want = list(forced)
        for u in sorted(range(before), key=lambda u: -score[h, u]):
            if score[h, u] > -np.inf:
                want += [t for t in range(tokens) if of[h, t] == u and t not in forced]
        assert got[h] == (want + [-1] * count)[:count]
    places = torch.empty_like(joined.members).scatter_(
        1, joined.members.long(), torch.arange(tokens, dtype=torch.int32).expand(heads, -1)
    )
    assert joined.at(places.long()).tolist() == of.tolist()
