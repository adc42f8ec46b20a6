"""MPCache's scorer, against its rule in NumPy."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec.sparse.scorers.base import Memo
from specdec.sparse.scorers.looked_at import NEVER, LookedAt


@given(st.integers(0, 1 << 20), st.integers(1, 2), st.integers(1, 9), st.booleans())
def test_pages_are_rated_by_what_was_looked_at(seed, heads, count, later):
    rng = np.random.default_rng(seed)
    k, q = rng.normal(size=(heads, count, 16, 4)), rng.normal(size=(heads, 3, 4))
    asked = 4 * rng.normal(size=(heads, 5, 4))
    memo = Memo(0, torch.from_numpy(asked), scale=0.5, has_looked=later)
    scorer = LookedAt()
    pages = scorer.summarize(torch.from_numpy(k), memo)
    got = scorer.logits(torch.from_numpy(q), pages, 0.5, memo).numpy()[:, 0]

    logits = 0.5 * asked @ k.reshape(heads, -1, 4).swapaxes(1, 2)
    a = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    most = a.mean(axis=0).max(axis=0)
    kept = np.ones(len(most), bool)
    if not later:
        kept[np.argsort(-most, kind="stable")[-(-len(most) // 2) :]] = False

    def rated(h, first, size):
        own = range(first, min(first + size, len(most)))
        own = [t for t in own if kept[t]]
        part = k[h].reshape(-1, 4)[own]
        mean = q[h].mean(0)
        return 0.6 * mean @ part.max(0) + 0.4 * mean @ part.min(0) if own else -np.inf

    for h in range(heads):
        large = [rated(h, s, 32) for s in range(0, len(most), 32)]
        large[0] = large[-1] = np.inf
        inside = np.argsort(-np.array(large), kind="stable")[: -(-len(large) // 2)]
        for page in range(count):
            own = rated(h, 16 * page, 16)
            if page // 2 in inside and np.isfinite(own):
                np.testing.assert_allclose(got[h, page], 0.5 * own)
            else:
                assert got[h, page] <= NEVER / 2
