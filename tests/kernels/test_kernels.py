"""Plain attention ops against one softmax over all keys, in float64; others by their own error."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.attention.softmax import causal_softmax, partial_softmax
from specdec.kernels.attention.tree_attention import tree_attention, unpack
from specdec.sampling.tree import ancestor_words

from helpers.dense import close, dense, own_error

pytestmark = pytest.mark.fast

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_prefix_tree_and_merge_are_one_softmax(data):
    """Shared rows, ragged lengths, trees, windows and softcap, in every dtype."""
    draw = data.draw
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    batch, rows, nodes = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 9))
    kv_heads, group = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 3, 4]))
    dim = draw(st.sampled_from([4, 8]))
    value_dim = draw(st.sampled_from([dim, 6]))
    dtype = draw(st.sampled_from(DTYPES))
    softcap = draw(st.sampled_from([None, 0.7]))
    window = draw(st.sampled_from([None, 1, 3, 20]))

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    capacity = 14
    length = torch.tensor([draw(st.integers(0, capacity)) for _ in range(rows)], dtype=torch.int32)
    row_map = torch.tensor([draw(st.integers(0, rows - 1)) for _ in range(batch)]).int()
    parents = [[-1, *(draw(st.integers(0, i - 1)) for i in range(1, nodes))] for _ in range(batch)]
    q = normal(batch, kv_heads * group, nodes, dim)
    k, v = normal(rows, kv_heads, capacity, dim), normal(rows, kv_heads, capacity, value_dim)
    k[:, :, length.max() :] = torch.nan  # behind every length: must not be read
    tree_k, tree_v = normal(batch, kv_heads, nodes, dim), normal(batch, kv_heads, nodes, value_dim)
    anc = ancestor_words(parents, nodes)
    corner = unpack(anc, nodes)
    depth = corner.sum(-1) - 1
    positions = length[row_map.long()][:, None] + depth
    first = None if window is None else positions - window + 1
    scale = dim**-0.5

    prefix = prefix_attention(q, k, v, length, row_map, scale=scale, softcap=softcap, first=first)
    tree = tree_attention(
        q, tree_k, tree_v, anc, scale=scale, softcap=softcap, window=window,
        q_positions=positions, k_positions=positions,
    )  # fmt: skip
    o, lse = merge([prefix, tree])

    slots = torch.arange(capacity)
    seen = slots < length[row_map.long()][:, None, None]
    seen = seen.expand(batch, nodes, capacity).clone()
    if first is not None:
        seen &= slots >= first[..., None]
        corner = corner & (positions[:, :, None] - positions[:, None, :] < window)
    all_k = torch.cat([k[row_map.long()].nan_to_num(0.0), tree_k], dim=2)
    all_v = torch.cat([v[row_map.long()], tree_v], dim=2)
    visible = torch.cat([seen, corner], dim=2)
    want_o, want_lse = dense(q, all_k, all_v, visible, scale, softcap)
    error = own_error(q, all_k, all_v, visible, scale, softcap)
    close(o, want_o, error, dtype)
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4}.get(dtype, 0.02)
    torch.testing.assert_close(lse.double(), want_lse, rtol=tolerance, atol=tolerance)
    assert o.dtype == lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("window", [None, 1, 3, 7, 100])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_causal(n, softcap, window):
    torch.manual_seed(0)
    q, k = torch.randn(2, 6, n, 8).double(), torch.randn(2, 2, n, 8).double()
    v = torch.randn(2, 2, n, 8).double()
    o, lse = causal_softmax(q, k, v, scale=0.3, softcap=softcap, window=window)
    ahead = torch.arange(n)[:, None] - torch.arange(n)
    visible = (ahead >= 0) & (ahead < (window or n + 1))
    want_o, want_lse = dense(q, k, v, visible.expand(2, n, n), 0.3, softcap)
    torch.testing.assert_close(o, want_o)
    torch.testing.assert_close(lse, want_lse)


def test_merge_of_any_parts():
    """Random splits of the keys, empty ones included, and nothing but empty ones."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, n, 4).double() for n in (3, 10, 10))
    whole = partial_softmax(q, k, v, scale=0.5)
    for cuts in ([0, 10], [0, 0, 3, 10], [0, 4, 4, 10, 10], [0, 1, 2, 9, 10]):
        parts = [
            partial_softmax(q, k[:, :, a:b], v[:, :, a:b], scale=0.5)
            for a, b in zip(cuts, cuts[1:])
        ]
        for ours, want in zip(merge(parts), whole):
            torch.testing.assert_close(ours, want)
    empty = partial_softmax(q, k[:, :, :0], v[:, :, :0], scale=0.5)
    o, lse = merge([empty, empty])
    assert torch.equal(o, torch.zeros_like(o)) and torch.isneginf(lse).all()
