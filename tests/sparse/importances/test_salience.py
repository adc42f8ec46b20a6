"""Salience (ZipCache): the mean attention of the probes that see a token."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.forward.prompt_queries import Queries
from specdec.sparse.importances.salience import Salience
from specdec.sparse.maths.window_scores import window_scores


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(4, 12), st.booleans(), st.booleans())
def test_salience_is_fair_to_late_tokens(seed, tokens, has_probes, has_accepted):
    rng = np.random.default_rng(seed)
    k, scale = rng.normal(size=(2, tokens, 4)), 0.5
    at = {"window": [tokens - 3, tokens - 2]}
    if has_probes:
        at["probes"] = [0, 2]
    if has_accepted:
        at["accepted"] = [tokens - 2, tokens - 1]
    q = {name: rng.normal(size=(4, len(where), 4)) for name, where in at.items()}

    def queries(name):
        if name not in q:
            return None
        return Queries(torch.from_numpy(q[name]), torch.tensor(at[name]))

    def attention(x):
        return window_scores(x.q.unflatten(0, (2, 2)), torch.from_numpy(k), scale, x.at)

    text = SimpleNamespace(
        length=tokens, device=torch.device("cpu"), probes=queries("probes"),
        window=queries("window"),
        accepted=torch.from_numpy(q["accepted"]) if has_accepted else None,
        attention=attention,
    )  # fmt: skip
    sums, seen = np.zeros((2, tokens)), np.zeros(tokens)
    for name, where in at.items():
        for i, p in enumerate(where):
            seen[: p + 1] += 1
            for head in range(4):
                a = np.exp(scale * q[name][head, i] @ k[head // 2, : p + 1].T)
                sums[head // 2, : p + 1] += a / a.sum() / 2
    np.testing.assert_allclose(Salience().scores(text), sums / np.maximum(seen, 1), atol=1e-9)
    nothing = SimpleNamespace(probes=None, window=None, accepted=None)
    assert Salience().scores(nothing) is None
