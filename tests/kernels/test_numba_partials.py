"""Attention ops that give partials, and their merge, against the plain ones in float64."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.numba_drawn import EXAMPLES, Drawn, judge

pytest.importorskip("numba", reason="numba is not installed")

from specdec.kernels.attention import level_attention_numba, quantized_attention_numba
from specdec.kernels.attention.gather_attention import gather_attention
from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.attention.quantized_attention import quantized_attention
from specdec.kernels.attention.tree_attention import tree_attention
from specdec.kernels.cache.quantize_kv import QuantizedKV, quantize_kv
from specdec.kernels.cpu.jit import num_threads
from specdec.kernels.selection.page_mass import page_mass
from specdec.sampling.tree import ancestor_words

LENGTHS = (0, 1, 15, 63, 64, 65, 200)

num_threads()  # they must run before a test puts a number in their place


def same(op, *args, **kwargs):
    """The Numba version by the error of the plain one; partials that see nothing alike."""
    wide = [x.double() if x.dtype == torch.float32 else x for x in args]
    ours, plain, exact = (
        op.numba(*args, **kwargs),
        op.plain(*args, **kwargs),
        op.plain(*wide, **kwargs),
    )
    assert torch.equal(ours[1].isneginf(), exact[1].isneginf())
    for one, other, want in zip(ours, plain, exact):
        judge(one.nan_to_num(neginf=0.0), other.nan_to_num(neginf=0.0), want.nan_to_num(neginf=0.0))
        assert not one.isnan().any()


def level(d: Drawn, dim: int, capacity: int = 210):
    """Queries, and a level of ragged rows with NaN behind their lengths."""
    batch, rows = d.one_of(1, 2, 4), d.one_of(1, 3)
    kv_heads, group = d.one_of((1, 1), (2, 3), (1, 8))
    q = d.normal(batch, kv_heads * group, d.one_of(1, 2, 9), dim)
    k, v = d.normal(rows, kv_heads, capacity, dim), d.normal(rows, kv_heads, capacity, dim)
    length = torch.tensor([d.one_of(*LENGTHS) for _ in range(rows)], dtype=torch.int32)
    for row, end in enumerate(length.tolist()):
        k[row, :, end:], v[row, :, end:] = torch.nan, torch.nan
    return q, k, v, length, torch.tensor([d.one_of(*range(rows)) for _ in range(batch)]).int()


@pytest.mark.parametrize("dim", [16, 64])
def test_prefix_attention(dim):
    """Shared and ragged rows, empty ones, windows that show nothing."""

    @EXAMPLES
    @given(data=st.data())
    def check(data):
        d = Drawn(data)
        q, k, v, length, row_map = level(d, dim)
        first = length[row_map.long()].long()[:, None] - d.one_of(-3, 0, 1, 64, 300)
        first = d.one_of(None, first + torch.arange(q.shape[2]))
        with patch.object(level_attention_numba, "num_threads", lambda: d.one_of(1, 2, 3)):
            same(prefix_attention, q, k, v, length, row_map, scale=dim**-0.5,
                 softcap=d.one_of(None, 0.7), first=first)  # fmt: skip

    check()


@pytest.mark.parametrize("dim", [16, 64])
def test_tree_attention(dim):
    """Nodes staged before, wide trees, nodes out of sight; keys as a store lends them."""

    @EXAMPLES
    @given(data=st.data())
    def check(data):
        d = Drawn(data)
        batch, before, nodes = d.one_of(1, 3), d.one_of(0, 2, 70), d.one_of(1, 3, 9)
        kv_heads, group, staged = d.one_of(1, 2), d.one_of(1, 3), before + nodes
        parents = [
            [-1, *(d.numpy.integers(0, i).item() for i in range(1, staged))] for _ in range(batch)
        ]
        anc = ancestor_words(parents, staged)[:, before:]
        q = d.normal(batch, kv_heads * group, nodes, dim)
        k, v = (d.normal(batch, kv_heads, 100, dim)[:, :, 5 : 5 + staged] for _ in range(2))
        places = torch.randint(0, 30, (batch, staged), generator=d.generator)
        same(
            tree_attention, q, k, v, anc, scale=0.2, softcap=d.one_of(None, 0.7),
            window=d.one_of(None, 1, 8, 100), q_positions=places[:, before:], k_positions=places,
        )  # fmt: skip

    check()


@pytest.mark.parametrize("dim", [16, 64])
def test_gather_attention(dim):
    """Pages in any order, open ones, padding, and none at all."""

    @EXAMPLES
    @given(data=st.data())
    def check(data):
        d = Drawn(data)
        q, k, v, length, row_map = level(d, dim)
        size, count = d.one_of(1, 4, 16, 48), d.one_of(1, 3, 20)
        most = -(-k.shape[2] // size)
        pages = torch.full((len(q), k.shape[1], count), -1, dtype=torch.int32)
        for chosen in pages.flatten(0, 1):
            some = torch.randperm(most, generator=d.generator)[: d.one_of(0, 1, count)][:count]
            chosen[: len(some)] = some.int()
        same(gather_attention, q, k, v, pages, length, row_map, page_size=size, scale=0.2,
             softcap=d.one_of(None, 0.7))  # fmt: skip

    check()


@pytest.mark.parametrize("dim", [32, 64, 128])
def test_quantized_attention(dim):
    """Groups of any size that are a level's, shared and ragged rows, NaN behind what is covered."""

    @EXAMPLES
    @given(data=st.data())
    def check(data):
        d = Drawn(data)
        q, k, v, length, row_map = level(d, dim)
        k[..., 3] += 20.0  # a channel of its own size
        kv = QuantizedKV.empty(k, v, d.one_of(2, 4, 8), d.one_of(16, 24, 32, 64))
        kv.k_scales.fill_(torch.nan), kv.v_scales.fill_(torch.nan)
        quantize_kv.plain(k, v, kv, torch.zeros_like(length), length, groups=99)
        covered = length // kv.group * kv.group
        wide = QuantizedKV(kv.k, kv.k_scales.double(), kv.v, kv.v_scales.double())
        kwargs = {"scale": dim**-0.5, "softcap": d.one_of(None, 0.7)}
        exact = quantized_attention.plain(q.double(), wide, covered, row_map, **kwargs)
        plain = quantized_attention.plain(q, kv, covered, row_map, **kwargs)
        with patch.object(quantized_attention_numba, "num_threads", lambda: d.one_of(1, 2, 3)):
            ours = quantized_attention.numba(q, kv, covered, row_map, **kwargs)
        assert torch.equal(ours[1].isneginf(), exact[1].isneginf())
        assert not any(x.isnan().any() for x in ours)
        for parts in zip(ours, plain, exact):
            judge(*(x.nan_to_num(neginf=0.0) for x in parts))

    check()


def test_quantized_attention_takes_the_sizes_it_is_made_for():
    """Half a head of codes or a group of channels that fills no vector runs in PyTorch."""
    taken = [(64, 4), (128, 4), (32, 4), (64, 8), (64, 2), (128, 2)]
    for dim, bits in [*taken, (16, 8), (16, 4), (80, 4), (80, 8), (32, 2), (96, 2)]:
        k = torch.randn(1, 2, 64, dim)
        kv = QuantizedKV.empty(k, k, bits, 32)
        assert quantized_attention_numba.fits(kv) == ((dim, bits) in taken)
        quantize_kv(k, k, kv, torch.zeros(1).int(), torch.tensor([64]), groups=2)
        q, row = torch.randn(1, 4, 3, dim), torch.zeros(1).int()
        ours, plain = (
            op(q, kv, torch.tensor([64]).int(), row, scale=0.2)
            for op in (quantized_attention.numba, quantized_attention.plain)
        )
        torch.testing.assert_close(ours, plain)


@EXAMPLES
@given(data=st.data())
def test_merge(data):
    """Any number of partials, some or all without weight."""
    d = Drawn(data)
    shape, width = d.one_of((1, 3, 1), (2, 4, 5)), d.one_of(1, 7, 16, 64)
    partials = []
    for _ in range(d.one_of(1, 2, 5)):
        lse = 20 * d.normal(*shape)
        lse[torch.rand(shape, generator=d.generator) < d.one_of(0.0, 0.4, 1.0)] = -torch.inf
        o = d.normal(*shape, width).masked_fill(lse.isneginf()[..., None], 0.0)
        partials.append((o, lse))
    kept = [(o.clone(), lse.clone()) for o, lse in partials]
    ours, plain = merge.numba(partials), merge.plain(partials)
    exact = merge.plain([(o.double(), lse.double()) for o, lse in partials])
    assert torch.equal(ours[1].isneginf(), exact[1].isneginf())
    for one, other, want in zip(ours, plain, exact):
        judge(*(x.nan_to_num(neginf=0.0) for x in (one, other, want)))
    assert all(torch.equal(a, b) for x, y in zip(kept, partials) for a, b in zip(x, y))


@EXAMPLES
@given(data=st.data())
def test_page_mass(data):
    """Pages of any size, of ragged and empty rows, under the lse of those keys and others."""
    d = Drawn(data)
    q, k, _, length, row_map = level(d, d.one_of(16, 48))
    softcap, size = d.one_of(None, 0.7), d.one_of(1, 5, 8, 64, 100)
    kwargs = {"page_size": size, "scale": 0.2, "softcap": softcap}
    kwargs["votes"] = d.one_of("max", "mean")
    lse = prefix_attention.plain(
        q.double(), k.double().nan_to_num(), k.double().nan_to_num(), length, row_map, scale=0.2,
        softcap=softcap,
    )[1]  # fmt: skip
    lse += d.one_of(0.0, 1.5)
    exact = page_mass.plain(q.double(), k.double(), lse, length, row_map, **kwargs)
    plain = page_mass.plain(q, k, lse.float(), length, row_map, **kwargs)
    judge(page_mass.numba(q, k, lse.float(), length, row_map, **kwargs), plain, exact)
