"""MPCache's selector, against its rule in NumPy, one group after the other."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec.sparse.maths.linear_bound import blended, coarse_to_fine


@given(st.integers(0, 1 << 20), st.integers(1, 2), st.integers(1, 200), st.sampled_from([0.5, 1.0]))
def test_groups_are_scored_and_looked_into(seed, heads, tokens, share):
    rng = np.random.default_rng(seed)
    k, q = rng.normal(size=(heads, tokens, 4)), rng.normal(size=(heads, 4))
    keys, query = torch.from_numpy(k), torch.from_numpy(q)
    got = coarse_to_fine(query, blended(keys, 32), blended(keys, 16), share).numpy()

    def rated(h, start, size):
        part = k[h, start : start + size]
        return sum(
            0.6 * q[h, c] * part[:, c].max() + 0.4 * q[h, c] * part[:, c].min() for c in range(4)
        )

    for h in range(heads):
        large = [rated(h, s, 32) for s in range(0, tokens, 32)]
        large[0] = large[-1] = np.inf
        ranked = np.argsort(-np.array(large), kind="stable")
        inside = set(ranked[: max(1, int(np.ceil(share * len(large))))].tolist())
        small = [rated(h, s, 16) for s in range(0, tokens, 16)]
        for g, score in enumerate(small):
            if g in (0, len(small) - 1):
                assert got[h, g] == np.inf
            elif g // 2 in inside:
                np.testing.assert_allclose(got[h, g], score)
            else:
                assert got[h, g] == -np.inf
