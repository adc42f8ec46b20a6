"""Merging by redundancy, against EMS's rule one token after the other, and laws of merging."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec.sparse.maths.class_centres import class_centres


def unit(x):
    return x / np.linalg.norm(x)


@given(st.data())
def test_tokens_go_into_the_centre_that_they_resemble(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    heads, tokens = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 25))
    count = data.draw(st.integers(1, tokens))
    k, v = rng.normal(size=(2, heads, tokens, 3))
    weight = rng.random((heads, tokens)) + 0.1
    centres = np.stack([rng.choice(tokens, count, replace=False) for _ in range(heads)])
    got = class_centres(*map(torch.from_numpy, (k, v, weight, centres)), threshold=0.6)
    for h in range(heads):
        members = {int(c): [int(c)] for c in centres[h]}
        for t in set(range(tokens)) - set(members):
            like = [
                max(0, unit(k[h, t]) @ unit(k[h, c])) * max(0, unit(v[h, t]) @ unit(v[h, c]))
                for c in centres[h]
            ]
            if max(like) > 0.6:
                members[int(centres[h][int(np.argmax(like))])].append(t)
        for i, c in enumerate(centres[h]):
            own = members[int(c)]
            w = weight[h, own] / weight[h, own].sum()
            direction = sum(a * unit(k[h, t]) for a, t in zip(w, own, strict=True))
            length = sum(a * np.linalg.norm(k[h, t]) for a, t in zip(w, own, strict=True))
            np.testing.assert_allclose(got.k[h, i], unit(direction) * length, atol=1e-9)
            np.testing.assert_allclose(
                got.v[h, i], sum(a * v[h, t] for a, t in zip(w, own, strict=True)), atol=1e-9
            )
            assert got.size[h, i] == len(own)


def test_equal_tokens_merged_lose_nothing():
    """Section 6, item 3: counts add up to the tokens, and with their logs attention is exact."""
    rng = np.random.default_rng(3)
    kinds_k, kinds_v = np.eye(4) * 3, rng.normal(size=(4, 4))
    kind = rng.integers(0, 4, 50)
    kind[:4] = range(4)
    k, v = torch.from_numpy(kinds_k[kind])[None], torch.from_numpy(kinds_v[kind])[None]
    merged = class_centres(k, v, torch.ones(1, 50).double(), torch.tensor([[0, 1, 2, 3]]))
    assert merged.size.sum() == 50
    q = torch.from_numpy(rng.normal(size=(1, 1, 4)))
    want = (q @ k.mT).softmax(-1) @ v
    got = (q @ merged.k.mT + merged.size.log()[:, None]).softmax(-1) @ merged.v
    torch.testing.assert_close(got, want)
