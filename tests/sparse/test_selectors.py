"""Query-time selectors against their formulas in NumPy."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.sparse.maths.bound_tree import BoundTree
from specdec.sparse.scorers.base import Memo
from specdec.sparse.scorers.landmarks import Landmarks
from specdec.sparse.scorers.probe_query import (
    activation_bias,
    probe_query,
    representatives,
    spread,
)
from specdec.sparse.scorers.probed_blocks import ProbedBlocks
from specdec.sparse.scorers.strong_channels import StrongChannels


def draw(data, *shape):
    seed = data.draw(st.integers(0, 1 << 20))
    return np.random.default_rng(seed).normal(size=shape)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_landmarks_and_likeness(data):
    heads, pages, size = (data.draw(st.integers(low, n)) for low, n in ((1, 3), (1, 7), (2, 4)))
    k, q = draw(data, heads, pages, size, 5), draw(data, heads, 2, 5)
    summary = Landmarks(size).summarize(torch.from_numpy(k), Memo())
    got = Landmarks(size).logits(torch.from_numpy(q), summary, 0.3, Memo())
    mean = k.mean(2)
    np.testing.assert_allclose(got, 0.3 * np.einsum("hmd,hpd->hmp", q, mean), atol=1e-12)
    likeness = Landmarks(size).likeness(summary)
    for h in range(heads):
        want = [
            min(x @ m / np.linalg.norm(x) / np.linalg.norm(m) for x in chunk)
            for chunk, m in zip(k[h], mean[h])
        ]
        np.testing.assert_allclose(likeness[h], want, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_strong_channels(data):
    heads, tokens, channels = (data.draw(st.integers(1, n)) for n in (3, 9, 6))
    k, q = draw(data, heads, tokens, 6), draw(data, heads, 3, 6)
    scorer = StrongChannels(channels)
    summary = scorer.summarize(torch.from_numpy(k)[:, :, None], Memo())
    got = scorer.logits(torch.from_numpy(q), summary, 6**-0.5, Memo())
    for h in range(heads):
        for m in range(3):
            i = np.argsort(-abs(q[h, m]))[:channels]
            share = abs(q[h, m, i]).sum() / abs(q[h, m]).sum()
            want = k[h][:, i] @ q[h, m, i] / np.sqrt(6 * share)
            np.testing.assert_allclose(got[h, m], want, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_tree_of_bounds_finds_what_all_bounds_say_and_asks_fewer(data):
    tree = BoundTree(data.draw(st.sampled_from([(8, 4, 2), (6, 2), (4,)])))
    chunks = data.draw(st.integers(1, 30))
    k = torch.from_numpy(draw(data, 1, chunks * tree.sizes[-1], 4))
    q = torch.from_numpy(draw(data, data.draw(st.integers(1, 3)), 4))
    levels = [level[0] for level in tree.levels(k)]
    x = k[0].numpy().reshape(chunks, -1, 4)
    bound = np.maximum(q.numpy()[:, None] * x.min(1), q.numpy()[:, None] * x.max(1)).sum(-1).max(0)
    assert (bound >= (q.numpy() @ x.transpose(0, 2, 1)).max(axis=(1, 2)) - 1e-12).all()
    count = data.draw(st.integers(1, chunks))
    got, asked = tree.best(q, levels, count)
    np.testing.assert_allclose(bound[got], np.sort(bound)[::-1][:count], atol=1e-12)
    assert len(set(got.tolist())) == count
    assert asked <= sum(len(level) for level in levels)


def test_deserts_are_skipped():
    """Where one stretch holds all that matters, most chunks are not looked at."""
    k = torch.zeros(1, 4096, 4)
    k[0, 640:704] = torch.rand(64, 4, generator=torch.manual_seed(0))
    tree = BoundTree()
    found, asked = tree.best(torch.ones(1, 4), [x[0] for x in tree.levels(k)], 8)
    assert sorted(found.tolist()) == list(range(80, 88))
    assert asked < 4096 // 8 / 4


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_probe_query(data):
    heads, window = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 60))
    q, share = draw(data, heads, window, 4), data.draw(st.sampled_from([0.02, 0.3, 1.0]))
    bias = activation_bias(torch.from_numpy(q))
    got = probe_query(torch.from_numpy(q), share)
    for h in range(heads):
        mean, var = q[h].mean(0), q[h].var(0)
        want = ((q[h] - mean) ** 2 / (var + 0.01 * var.mean() + 1e-300)).sum(-1)
        np.testing.assert_allclose(bias[h], want, rtol=1e-9)
        count = max(1, int(np.ceil(share * window)))
        best = np.argsort(-want)[:count]
        weight = want[best] if want[best].sum() > 0 else np.ones(count)
        np.testing.assert_allclose(got[h], weight @ q[h][best] / weight.sum(), atol=1e-9)


def test_spread_is_one_where_all_are_alike():
    torch.testing.assert_close(spread(torch.zeros(3, 7)), torch.ones(3))
    assert spread(torch.tensor([[100.0, 0.0, 0.0]])).item() < 1e-6
    x = np.random.default_rng(0).normal(size=(2, 5))
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    np.testing.assert_allclose(
        spread(torch.from_numpy(x)), -(p * np.log(p)).sum(-1) / np.log(5), atol=1e-6
    )


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_representatives(data):
    heads, pages, count = (data.draw(st.integers(1, n)) for n in (2, 4, 4))
    k, q = draw(data, heads, pages, 6, 3), draw(data, heads, 5, 3)
    got = representatives(torch.from_numpy(k), torch.from_numpy(q), count)
    for h in range(heads):
        for p in range(pages):
            asked = [np.mean([x @ key for x in q[h]]) for key in k[h, p]]
            np.testing.assert_allclose(got[h, p], k[h, p, np.argsort(asked)[-count:]].mean(0))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_probed_blocks(data):
    heads, pages = (data.draw(st.integers(1, n)) for n in (2, 5))
    asking, window = (data.draw(st.integers(3, n)) for n in (70, 9))  # two stand out alike
    k, q = draw(data, heads, pages, 8, 4), draw(data, heads, asking, 4)
    asked = draw(data, heads, window, 4)
    share = data.draw(st.sampled_from([0.02, 0.4]))
    scorer = ProbedBlocks(page_size=8, share=share)
    for memo in (Memo(), Memo(queries=torch.from_numpy(asked))):
        summary = scorer.summarize(torch.from_numpy(k), memo)
        got = scorer.logits(torch.from_numpy(q), summary, 0.3, memo)
        assert got.shape == (heads, 1, pages)
        for h in range(heads):
            stands = k[h].mean(1)
            if memo.queries is not None:
                order = (k[h] @ asked[h].mean(0)).argsort(1)[:, -4:]
                stands = np.take_along_axis(k[h], order[..., None], 1).mean(1)
            want = 0.3 * stands @ probe_of(q[h], share)
            np.testing.assert_allclose(got[h, 0], want, atol=1e-9)


def probe_of(q, share):
    """The weighted mean of the queries with the most activation bias."""
    var = q.var(0)
    bias = ((q - q.mean(0)) ** 2 / (var + 0.01 * var.mean() + 1e-300)).sum(-1)
    best = np.argsort(-bias)[: max(1, int(np.ceil(share * len(q))))]
    weight = bias[best] if bias[best].sum() > 0 else np.ones(len(best))
    return weight @ q[best] / weight.sum()
