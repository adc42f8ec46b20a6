"""D2O's merging, its threshold and its layers' budgets, against the formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.sparse.budgets.even_attention import even_attention, unevenness
from specdec.sparse.maths.merge_similar import merge_similar, moving_threshold


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_dropped_goes_where_it_is_most_alike(data):
    heads, tokens = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 14))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    k, v = rng.normal(size=(2, heads, tokens, 4))
    kept = rng.random((heads, tokens)) < data.draw(st.sampled_from([0.0, 0.4, 1.0]))
    threshold = data.draw(st.sampled_from([None, 0.0, 0.5, 2.0]))
    got = merge_similar(*map(torch.from_numpy, (k, v, kept)), threshold)
    unit = k / np.linalg.norm(k, axis=-1, keepdims=True)
    for h in range(heads):
        to, out = np.flatnonzero(kept[h]), np.flatnonzero(~kept[h])
        if not len(to):
            assert got[2][h].sum() == 0
            continue
        u = {i: max((unit[h, i] @ unit[h, j], j) for j in to) for i in out}
        mean = np.mean([x for x, _ in u.values()]) if u else 1.0
        assert got[3][h].item() == pytest.approx(mean)
        delta = mean - 1e-12 if threshold is None else threshold
        for j in to:
            mine = [i for i in out if u[i][1] == j and u[i][0] >= delta]
            weights = np.array([np.e, *(np.exp(u[i][0]) for i in mine)])
            for x, found in ((k, got[0]), (v, got[1])):
                want = weights @ x[h, [j, *mine]] / weights.sum()
                np.testing.assert_allclose(found[h, j], want, atol=1e-10)
            assert got[2][h, j] == 1 + len(mine)
        if threshold == 0.0 and all(x >= 0 for x, _ in u.values()):
            assert got[2][h].sum() == tokens  # counts are those of all tokens


def test_threshold_moves():
    assert moving_threshold(None, 0.6) == 0.6
    assert moving_threshold(0.4, 0.6) == pytest.approx(0.5)
    assert moving_threshold(0.4, 0.6, alpha=0.7) == pytest.approx(0.46)


def test_layers_keep_more_where_attention_is_even():
    rng = np.random.default_rng(0)
    sums = rng.random((3, 2, 9)) ** np.array([1, 4, 9])[:, None, None]
    variances = [unevenness(torch.from_numpy(x)) for x in sums]
    shares = sums.sum(1) / sums.sum((1, 2))[:, None]
    np.testing.assert_allclose(variances, shares.var(-1))
    want = np.exp(-np.array(variances))
    counts = even_attention(variances, 100, 1000)
    np.testing.assert_array_equal(counts, (300 * want / want.sum()).astype(int))
    assert counts == sorted(counts, reverse=True)
    assert even_attention([0.0, 50.0], 600, 1000) == [1000, 10]
