"""Runs of similar neighbours (KVMerger) against a walk written from the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.sparse.maths.merge_runs import merge_runs, runs


def walk(k, left, least):
    """Runs of one head, from the last token on, as lists of tokens."""
    found = []
    for i in reversed(range(len(k))):
        if not left[i]:
            continue
        last = found[-1] if found else None
        after = last[-1] if last and last[-1] == i + 1 else None
        cos = (
            None
            if after is None
            else k[i] @ k[after] / np.linalg.norm(k[i]) / np.linalg.norm(k[after])
        )
        if cos is not None and cos > least:
            last.append(i)
        else:
            found.append([i])
    return [run[::-1] for run in reversed(found)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 14), st.sampled_from([-1.0, 0.3, 0.75, 1.0]))
def test_runs_are_merged_around_their_pivot(seed, tokens, least):
    rng = np.random.default_rng(seed)
    k = rng.normal(size=(2, tokens, 3)).cumsum(1)  # neighbours resemble each other
    v, score = rng.normal(size=(2, tokens, 3)), rng.random((2, tokens))
    left = rng.random((2, tokens)) < 0.7
    t = [torch.from_numpy(x) for x in (k, v, left, score)]
    run = runs(t[0], t[2], None, least)
    keys, values, count = merge_runs(*t, run)
    assert count.sum().item() == left.sum()  # the counts are the tokens
    for h in range(2):
        for mine in walk(k[h], left[h], least):
            (at,) = {run[h, i].item() for i in mine}
            assert count[h, at] == len(mine)
            pivot = mine[int(score[h, mine].argmax())]
            apart = np.linalg.norm(k[h, mine] - k[h, pivot], axis=-1)
            sigma = apart.mean()
            g = np.exp(-(apart**2) / (2 * sigma**2)) if sigma else np.ones(len(mine))
            for got, x in ((keys, k), (values, v)):
                want = (g[:, None] * x[h, mine]).sum(0) / g.sum()
                np.testing.assert_allclose(got[h, at], want, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 12))
def test_a_count_is_kept_to(seed, tokens, count):
    """As many runs as wanted, or as few as there can be; never more joins than needed for it."""
    rng = np.random.default_rng(seed)
    k, left = (
        torch.from_numpy(rng.normal(size=(2, tokens, 3))),
        torch.from_numpy(rng.random((2, tokens)) < 0.8),
    )
    run = runs(k, left, count, 1.1)
    for h in range(2):
        made = len({run[h, i].item() for i in range(tokens) if left[h, i]})
        stretches = sum(bool(left[h, i]) and not (i and left[h, i - 1]) for i in range(tokens))
        assert made == max(min(count, int(left[h].sum())), stretches)


def test_equal_keys_lose_nothing():
    """With their log-count, merged equal keys give the attention over all tokens."""
    rng = np.random.default_rng(0)
    k = torch.from_numpy(np.repeat(rng.normal(size=(1, 3, 4)), 5, axis=1))
    v, q = (
        torch.from_numpy(rng.normal(size=(1, 15, 4))),
        torch.from_numpy(rng.normal(size=(1, 2, 4))),
    )
    left = torch.ones(1, 15, dtype=torch.bool)
    keys, values, count = merge_runs(k, v, left, torch.rand(1, 15), runs(k, left, None, 0.999999))
    assert count.tolist() == [[5.0, 5.0, 5.0]]
    got = (q @ keys.mT + count.log()[:, None]).softmax(-1) @ values
    assert torch.allclose(got, (q @ k.mT).softmax(-1) @ v)
    assert pytest.approx(15) == count.sum().item()
