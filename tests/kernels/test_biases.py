"""Keys with a bias: what is added to a key's logit, in both versions of `level_attention`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba", reason="numba is not installed")

from specdec.kernels.attention.level_attention import NO_BOUNDS, Reads, level_attention

from helpers.numba_drawn import EXAMPLES, Drawn, judge

pytestmark = pytest.mark.fast


def exact(q, k, v, bias, scale, softcap):
    """The formula, in NumPy: softmax(softcap(q k * scale) + bias) v, per query head."""
    q, k, v, bias = (x.double().numpy() for x in (q, k, v, bias))
    group = q.shape[0] // k.shape[0]
    out = np.zeros((q.shape[0], q.shape[1], v.shape[-1]))
    for head in range(q.shape[0]):
        logits = q[head] @ k[head // group].T * scale
        if softcap:
            logits = softcap * np.tanh(logits / softcap)
        logits = logits + bias[head // group]
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        out[head] = weights / weights.sum(-1, keepdims=True) @ v[head // group]
    return torch.from_numpy(out)


@EXAMPLES
@given(data=st.data())
def test_a_bias_is_added_to_the_logits_of_its_keys(data):
    """Beside keys without one, over several blocks; minus infinity hides a key."""
    d = Drawn(data)
    kv_heads, group, nodes, dim = d.one_of(1, 2), d.one_of(1, 3), d.one_of(1, 2, 5), 16
    plain, biased = d.one_of(1, 40), d.one_of(1, 15, 64, 70, 300)
    softcap = d.one_of(None, 3.0)
    q = d.normal(1, kv_heads * group, nodes, dim)
    levels = [
        (d.normal(1, kv_heads, n, dim), d.normal(1, kv_heads, n, dim)) for n in (plain, biased)
    ]
    bias = d.normal(kv_heads, biased) * 2
    bias[:, :: d.one_of(2, 7)] = -torch.inf
    table = np.array([[0, 0, 0, plain, 0, 0, 1, 0], [1, 0, 0, biased, 0, 1, 1, -1]], np.int64)
    reads = Reads(
        table, np.zeros(2, np.int64), np.zeros((1, nodes, 1), np.uint64), NO_BOUNDS,
        biases=bias[None].numpy(),
    )  # fmt: skip
    how = {"scale": 0.3, "softcap": softcap}
    k, v = (torch.cat([pair[i][0] for pair in levels], dim=1) for i in (0, 1))
    want = exact(q[0], k, v, torch.cat([torch.zeros(kv_heads, plain), bias], 1), 0.3, softcap)
    plain_o = level_attention.plain(q, levels, reads, **how)
    judge(plain_o, plain_o, want[None])
    judge(level_attention.numba(q, levels, reads, **how), plain_o, want[None])
