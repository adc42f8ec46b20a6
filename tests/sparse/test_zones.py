"""Estimated clusters (RetroInfer) against their definition, and against full attention."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.sparse.maths.zones import estimated


def zone(score, means, v, group, read):
    """What `estimated` is told, of a text whose clusters and values are known token by token."""
    heads, groups = score.shape
    sums = v.new_zeros(heads, groups, v.shape[-1])
    sums.scatter_add_(1, group[..., None].expand_as(v), v)
    sizes = group.new_zeros(heads, groups).scatter_add_(1, group, torch.ones_like(group))
    of = torch.where(read, group, -1)  # those that are not read are none
    return score, means, sums, sizes, of, v


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_entries_stand_for_what_is_not_read_of_the_best_clusters(data):
    heads, tokens, groups = (data.draw(st.integers(1, n)) for n in (2, 16, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    group = rng.integers(0, groups, (heads, tokens))
    read, count = rng.random((heads, tokens)) < 0.4, data.draw(st.integers(1, groups))
    score, means = rng.random((heads, groups)), rng.normal(size=(heads, groups, 3))
    v = rng.normal(size=(heads, tokens, 2))
    got = estimated(*zone(*map(torch.from_numpy, (score, means, v, group, read))), count)
    for h in range(heads):
        left = {
            u: [t for t in range(tokens) if group[h, t] == u and not read[h, t]]
            for u in range(groups)
        }
        want = sorted((u for u in left if left[u]), key=lambda u: -score[h, u])[:count]
        assert torch.isinf(got.log_weight[h, len(want) :]).all()
        for i, u in enumerate(want):
            np.testing.assert_allclose(got.log_weight[h, i], np.log(len(left[u])))
            np.testing.assert_allclose(got.k[h, i], means[h, u])
            np.testing.assert_allclose(got.v[h, i], v[h, left[u]].mean(0), atol=1e-12)


def test_clusters_of_equal_keys_are_estimated_exactly():
    """With what is read they give full attention, where the keys of a cluster are equal."""
    rng = np.random.default_rng(0)
    group = torch.from_numpy(rng.integers(0, 4, (1, 20)))
    means = torch.from_numpy(rng.normal(size=(1, 4, 3)))
    k, v = means[0, group[0]][None], torch.from_numpy(rng.normal(size=(1, 20, 2)))
    read = torch.from_numpy(rng.random((1, 20)) < 0.3)
    x = estimated(*zone(torch.rand(1, 4), means, v, group, read), 4)
    q = torch.from_numpy(rng.normal(size=3))
    want = (k[0] @ q).softmax(0) @ v[0]
    logits = torch.cat([k[0][read[0]] @ q, x.k[0] @ q + x.log_weight[0]])
    got = logits.softmax(0) @ torch.cat([v[0][read[0]], x.v[0]])
    torch.testing.assert_close(got, want)
