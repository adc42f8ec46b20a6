"""ATLAS by its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec.sparse.triggers.atlas import Atlas


@given(data=st.data())
def test_atlas(data):
    layers, heads = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    received, mine, entropy = rng.random(layers), rng.random(heads), rng.random(heads)
    p, atlas = data.draw(st.floats(0, 1)), Atlas(alpha0=0.7)
    gradient = sum(n / (layers - 1) * abs(received[n + 1] - received[n]) for n in range(layers - 1))
    want = 0.7 * gradient * (1 - p) * sum(e / entropy.sum() * a for e, a in zip(entropy, mine))
    got = atlas.value(*map(torch.from_numpy, (received, mine, entropy)), p)
    assert got == pytest.approx(want if p < 0.5 else 0.0, rel=1e-5)
