"""ShadowKV's factored keys against NumPy's SVD."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.sparse.codecs.low_rank_keys import LowRankKeys


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_keys_are_those_of_the_svd(data):
    heads, tokens, rank = (data.draw(st.integers(1, n)) for n in (3, 12, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    k = rng.normal(size=(heads, tokens, 4))
    x = k.transpose(1, 0, 2).reshape(tokens, -1)
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    want = ((u[:, :rank] * s[:rank]) @ vh[:rank]).reshape(tokens, heads, 4).transpose(1, 0, 2)
    chosen = rng.integers(0, tokens, (heads, 5))
    got = LowRankKeys.of(torch.from_numpy(k), rank).keys(torch.from_numpy(chosen))
    for h in range(heads):
        np.testing.assert_allclose(got[h], want[h, chosen[h]], atol=1e-7)
        if rank >= 4 * heads:  # full rank loses nothing
            np.testing.assert_allclose(got[h], k[h, chosen[h]], atol=1e-9)
