"""Codecs against NumPy references written from their papers' formulas, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.sparse.codecs.base import Place
from specdec.sparse.codecs.grouped import CHANNELS, HEADS, TOKENS, Grouped
from specdec.sparse.codecs.joint import Joint
from specdec.sparse.codecs.paired import Paired
from specdec.sparse.codecs.plain import Plain
from specdec.sparse.codecs.projected import Projected
from specdec.sparse.codecs.repaired import Repaired
from specdec.sparse.codecs.rotated import Rotated
from specdec.sparse.codecs.scaled import Scaled

HEADS_, BLOCKS, TOKENS_, DIM = 4, 2, 16, 8
GROUPS = [(TOKENS, 8), (TOKENS, 16), (CHANNELS, 4), (CHANNELS, 8), (HEADS, 1)]
EXAMPLES = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**31)


def drawn(seed, heads=HEADS_):
    """Numbers with channels of their own size and a few outliers."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(heads, BLOCKS, TOKENS_, DIM)) * np.exp(rng.normal(size=DIM))
    x[rng.random(x.shape) < 0.01] *= 30
    return x


def place(layers=(0,), heads=HEADS_, queries=None, which=0):
    positions = torch.arange(BLOCKS * TOKENS_).view(BLOCKS, TOKENS_)
    return Place(layers, heads, positions, queries, which)


def through(side, x, at=None):
    """What a side gives back, by way of its parts."""
    at, x = at or place(), torch.from_numpy(x)
    learned = side.learn(x, at)
    return side.decode(side.encode(x, at, learned), at, learned).numpy()


def quantised(x, bits, clip=1.0):
    """P5 along the last axis: code = round((x - z) / s), z = min, s = (max - min) / (2^b - 1)."""
    z, top = clip * x.min(-1, keepdims=True), clip * x.max(-1, keepdims=True)
    s = (top - z) / (2**bits - 1)
    code = np.clip(np.floor((x - z) / np.where(s > 0, s, 1) + 0.5), 0, 2**bits - 1)
    return code * s + z, s


def by_group(x, bits, group, along, clip=1.0):
    """Groups of tokens of a channel, of channels of a token, or a token's heads together."""
    if along == TOKENS:
        y = x.reshape(HEADS_, BLOCKS, TOKENS_ // group, group, DIM).swapaxes(-1, -2)
        out, s = quantised(y, bits, clip)
        return out.swapaxes(-1, -2).reshape(x.shape), s.max()
    if along == CHANNELS:
        out, s = quantised(x.reshape(*x.shape[:-1], -1, group), bits, clip)
        return out.reshape(x.shape), s.max()
    out, s = quantised(np.moveaxis(x, 0, 2).reshape(BLOCKS, TOKENS_, -1), bits, clip)
    return np.moveaxis(out.reshape(BLOCKS, TOKENS_, HEADS_, DIM), 2, 0), s.max()


@EXAMPLES
@given(seeds, st.sampled_from([2, 4, 8]), st.sampled_from([1.0, 0.8]), st.sampled_from(GROUPS))
def test_grouped(seed, bits, clip, how):
    along, group = how
    x = drawn(seed)
    got = through(Grouped(bits, group, along, clip), x)
    want, step = by_group(x, bits, group, along, clip)
    np.testing.assert_allclose(got, want, atol=1e-9)
    if clip == 1:
        assert np.abs(got - x).max() <= step / 2 + 1e-9  # half a step a number


@EXAMPLES
@given(seeds)
def test_more_bits_and_more_rank_are_nearer(seed):
    x = drawn(seed)

    def error(side):
        return np.abs(through(side, x) - x).mean()

    by_bits = [error(Grouped(bits, 16, TOKENS)) for bits in (2, 4, 8)]
    assert by_bits[0] > by_bits[1] > by_bits[2]
    base = Grouped(2, 16, TOKENS)
    assert error(Repaired(base, TOKENS, 2, 0.0)) < by_bits[0]
    assert error(Repaired(base, TOKENS, 8, 0.0)) < 1e-6  # all of the error, of any kind
    shares = [error(Projected(share)) for share in (0.25, 0.75, 1.0)]
    assert shares[0] > shares[1] > shares[2] and shares[2] < 1e-9


@EXAMPLES
@given(seeds, st.sampled_from([TOKENS, CHANNELS]), st.sampled_from([0.0, 0.2]))
def test_repaired_is_gear(seed, along, share):
    """Outliers apart, the error of the rest by its strongest directions (near the best ones)."""
    x, rank = drawn(seed), 2
    group = TOKENS_ if along == TOKENS else DIM
    got = through(Repaired(Grouped(2, group, along), along, rank, share), x)
    y = x.swapaxes(-1, -2) if along == TOKENS else x  # vectors along the last axis
    size = y.shape[-1]
    count = max(1, round(share / 2 * size)) if share else 0
    order = y.argsort(-1)
    outlier = np.zeros(y.shape, bool)
    if count:
        np.put_along_axis(outlier, order[..., :count], True, -1)
        np.put_along_axis(outlier, order[..., -count:], True, -1)
    mean = np.where(outlier, 0, y).sum(-1, keepdims=True) / (size - 2 * count)
    bare = np.where(outlier, mean, y)
    coded, _ = quantised(bare, 2)
    error = np.where(outlier, 0, bare - coded)
    out = got.swapaxes(-1, -2) if along == TOKENS else got
    np.testing.assert_allclose(out[outlier], y[outlier], atol=1e-12)
    left = np.where(outlier, 0, out - bare)
    gap = error - (out - coded)
    gap[outlier] = 0
    for h in range(HEADS_):
        for p in range(BLOCKS):
            values = np.linalg.svd(error[h, p], compute_uv=False)
            assert np.linalg.norm(left[h, p]) <= 2 * np.sqrt((values[rank:] ** 2).sum()) + 1e-9
            assert np.linalg.norm(gap[h, p]) <= 2 * np.sqrt((values[rank:] ** 2).sum()) + 1e-9


def hadamard(size):
    h = np.ones((1, 1))
    while len(h) < size:
        h = np.block([[h, h], [h, -h]])
    return h / np.sqrt(size)


@EXAMPLES
@given(seeds, st.sampled_from([1, 2, 4]), st.booleans())
def test_rotated_is_rotatekv(seed, heads, ordered):
    x = drawn(seed)
    got = through(Rotated(Grouped(2, 8, CHANNELS, 0.8), heads, ordered), x)
    want, h = np.empty_like(x), hadamard(heads * DIM)
    for first in range(0, HEADS_, heads):
        y = np.moveaxis(x[first : first + heads], 0, 2).reshape(BLOCKS, TOKENS_, -1)
        order = np.arange(heads * DIM)
        if ordered:
            order = np.argsort(-y.sum((0, 1)), kind="stable")
        spread = (y[..., order] @ h).reshape(BLOCKS, TOKENS_, -1, 8)
        coded = quantised(spread, 2, 0.8)[0].reshape(y.shape) @ h
        back = np.empty_like(y)
        back[..., order] = coded
        want[first : first + heads] = np.moveaxis(back.reshape(BLOCKS, TOKENS_, heads, DIM), 2, 0)
    np.testing.assert_allclose(got, want, atol=1e-9)
    exact = through(Rotated(Plain(), heads, ordered), x)
    np.testing.assert_allclose(exact, x, atol=1e-9)  # the rotation itself loses nothing


@EXAMPLES
@given(seeds, st.booleans(), st.sampled_from([1, 2]))
def test_scaled(seed, balanced, per_head):
    """MiKV's balancer sqrt(max|q| / max|k|), and ZipCache's 1 / sqrt(max|x|)."""
    x = drawn(seed)
    q = np.random.default_rng(seed + 1).normal(size=(per_head * HEADS_, 5, DIM))
    got = through(Scaled(Grouped(2, DIM, CHANNELS), balanced), x,
                  place(queries=torch.from_numpy(q)))  # fmt: skip
    for head in range(HEADS_):
        size = np.abs(x[head]).max((0, 1))
        asked = np.abs(q[head * per_head : (head + 1) * per_head]).max((0, 1))
        b = np.sqrt(asked / size) if balanced else 1 / np.sqrt(size)
        np.testing.assert_allclose(got[head], quantised(x[head] * b, 2)[0] / b, atol=1e-9)


@EXAMPLES
@given(seeds, st.sampled_from([0.25, 0.5, 1.0]), st.sampled_from([1, 2]))
def test_projected_is_the_best_of_its_rank(seed, share, layers):
    """The SVD of [T, layers * heads * dim] cut at its rank, one layer's share of it (xKV)."""
    x = drawn(seed)
    flat = np.moveaxis(x, 0, 2).reshape(-1, HEADS_ * DIM)
    u, s, vt = np.linalg.svd(flat, full_matrices=False)
    rank = round(share * HEADS_ * DIM)
    best = (u[:, :rank] * s[:rank]) @ vt[:rank]
    best = np.moveaxis(best.reshape(BLOCKS, TOKENS_, HEADS_, DIM), 2, 0)
    heads = HEADS_ // layers
    for which in range(layers):
        at = place(tuple(range(layers)), heads, which=which)
        got = through(Projected(share), x, at)
        np.testing.assert_allclose(got, best[which * heads : (which + 1) * heads], atol=1e-6)


@EXAMPLES
@given(seeds, st.sampled_from([0.25, 0.5, 1.0]))
def test_joint_is_one_svd_of_keys_and_values(seed, share):
    """The rank-r part of [k; v] over all heads (X-EcoMLA's start), back in its two halves."""
    k, v = drawn(seed), drawn(seed + 1)
    flat = np.concatenate([np.moveaxis(x, 0, 2).reshape(-1, HEADS_ * DIM) for x in (k, v)], axis=1)
    u, s, vt = np.linalg.svd(flat, full_matrices=False)
    rank = round(share * flat.shape[1])
    best = (u[:, :rank] * s[:rank]) @ vt[:rank]
    codec, (k, v) = Joint(Projected(share), None, TOKENS_), map(torch.from_numpy, (k, v))
    learned = codec.learn(k, v, place())
    coded = codec.encode(k, v, place(), learned)
    assert coded[0][0].shape == (1, BLOCKS, TOKENS_, rank)
    for part, got in enumerate(codec.decode(coded, place(), learned)):
        half = best[:, part * HEADS_ * DIM : (part + 1) * HEADS_ * DIM]
        want = np.moveaxis(half.reshape(BLOCKS, TOKENS_, HEADS_, DIM), 2, 0)
        np.testing.assert_allclose(got, want, atol=1e-6)


@EXAMPLES
@given(seeds, st.sampled_from([0.0, 0.05, 0.3]), st.sampled_from([0.5, 0.6]))
def test_paired_is_minicache(seed, retained, t):
    x = drawn(seed)
    a, b = x[:2], x[2:]
    ua, ub = (y / np.linalg.norm(y, axis=-1, keepdims=True) for y in (a, b))
    angle = np.arccos(np.clip((ua * ub).sum(-1), -1, 1))
    w = angle[..., None]
    e = (np.sin((1 - t) * w) * ua + np.sin(t * w) * ub) / np.sin(w)
    count = max(1, round(retained * TOKENS_)) if retained else 0
    for which, own in enumerate((a, b)):
        want = np.linalg.norm(own, axis=-1, keepdims=True) * e
        for h in range(2):
            for p in range(BLOCKS):
                most = np.argsort(-angle[h, p])[:count]
                want[h, p, most] = own[h, p, most]
        got = through(Paired(Plain(), t, retained), x, place((0, 1), 2, which=which))
        np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(
    "side",
    [Grouped(2, 16, TOKENS), Repaired(Grouped(2, 16, TOKENS), TOKENS, 2, 0.1),
     Rotated(Grouped(2, 8, CHANNELS), 2, True), Projected(0.5), Paired(Plain(), 0.6, 0.1)],
    ids=lambda side: type(side).__name__,
)  # fmt: skip
def test_a_blocks_code_depends_on_the_block_alone(side):
    """Whether blocks are encoded together or one after the other, their parts are the same."""
    x = torch.from_numpy(drawn(3))
    two = place((0, 1), HEADS_ // 2)
    learned = side.learn(x, two)
    both = side.encode(x, two, learned)
    for block in range(BLOCKS):
        one = Place(two.layers, two.heads, two.positions[block : block + 1])
        alone = side.encode(x[:, block : block + 1], one, learned)
        for part, whole in zip(alone, both, strict=True):
            torch.testing.assert_close(part, whole[:, block : block + 1], rtol=1e-9, atol=1e-12)
