"""The Triton kernels of sampling and verification, against their plain twins and the exact rules.

See `test_attention.py`.
"""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specdec.kernels.sampling.choose_tokens import choose_tokens
from specdec.kernels.sampling.verify_trees import traverse_trees, walk_trees
from specdec.kernels.sampling.warp_scores import warp_scores
from specdec.sampling.noise import Noise

from helpers import fused
from helpers.enumeration import EXACT, KINDS, Choices, Tables, grow, unknown_after
from helpers.triton_drawn import DEVICE, EXAMPLES, FEWER, Drawn

HOW = ("point", "draw", "repeat", "iid")


def random_tree(source, tables, nodes, how):
    """A tree of the laws of `tables`, of random shape, drawn at random."""
    parents = [-1, *(source.randrange(i) for i in range(1, nodes))]
    parents[1:] = sorted(parents[1:])
    kinds = [source.choice(how) for _ in range(nodes - 1)]

    class Drawing(Choices):
        def pick(self, probs):
            return source.choices(range(len(probs)), probs)[0]

    return grow(Drawing(), parents, kinds, tables.draft)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["plain", "triton"])
def test_traversal_is_the_exact_rule(kind, version):
    """By enumeration of all outcomes of the rule, on random trees of every kind of node."""
    source = random.Random(KINDS.index(kind))
    op = getattr(traverse_trees, version)
    for seed in range(4 if version == "triton" else 12):
        tables = Tables(3, seed, kind)
        for how in ((source.choice(HOW),), ("point", "draw"), HOW):
            tree = random_tree(source, tables, source.choice((2, 3, 4, 5)), how)
            for law in (tables.target, unknown_after(1, tables.target)):
                assert fused.prove(op, tree, law, 3, DEVICE) < EXACT


@FEWER
@given(data=st.data())
def test_traversal_of_a_batch(data):
    """Trees of several sizes in one launch, in float32: paths and residuals of both versions."""
    source = random.Random(data.draw(st.integers(0, 1 << 30)))
    vocab = data.draw(st.sampled_from([3, 40]))
    tables = Tables(vocab, source.randrange(1 << 20), data.draw(st.sampled_from(KINDS)))
    trees = [random_tree(source, tables, source.choice((1, 2, 9)), HOW) for _ in range(3)]
    results = []
    for version in ("plain", "triton"):
        inputs = fused.batch(trees, fused.law_of(tables.target), vocab, torch.float32, DEVICE)
        tests = torch.rand(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        paths, used = getattr(traverse_trees, version)(*inputs, tests.to(DEVICE))
        last = [max(node for node in path if node >= 0) for path in paths.tolist()]
        laws = inputs[0][torch.arange(3), last]
        torch.testing.assert_close(laws.sum(-1), torch.ones(3, device=DEVICE))
        results.append((paths, used, laws))
    for plain, ours in zip(*results):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@EXAMPLES
@given(data=st.data())
def test_walks(data):
    source = random.Random(data.draw(st.integers(0, 1 << 30)))
    tables = Tables(3, 0)
    trees = [random_tree(source, tables, source.choice((1, 2, 9, 17)), HOW) for _ in range(3)]
    _, _, tokens, parents, _ = fused.batch(trees, fused.law_of(tables.target), 3, device=DEVICE)
    choices = torch.tensor([[source.randrange(3) for _ in row] for row in tokens]).to(DEVICE)
    plain = walk_trees.plain(choices, tokens, parents)
    assert torch.equal(walk_trees.triton(choices, tokens, parents), plain)


@EXAMPLES
@given(data=st.data())
def test_choices(data):
    """The host's own choice for the same seed and place; without noise the first of equal ones."""
    d = Drawn(data)
    rows, vocab = d.one_of(1, 3), d.one_of(1, 5, 64, 1003)
    scores = d.normal(rows, vocab)
    if d.one_of(False, True):
        scores = scores.round()
    for version in (choose_tokens.plain, choose_tokens.triton):
        best = version(scores)
        assert best.tolist() == [row.tolist().index(row.max().item()) for row in scores]
    seeds = [d.draw(st.integers(0, (1 << 64) - 1)) for _ in range(rows)]
    places = [d.draw(st.integers(0, 1 << 20)) for _ in range(rows)]
    sample = d.one_of(0, 7)
    cut = scores.masked_fill(torch.rand_like(scores.float()) < 0.3, -torch.inf)
    cut[:, 0] = 0.0
    signed = [seed - (1 << 64) if seed >> 63 else seed for seed in seeds]
    keys = torch.tensor(signed, device=DEVICE)
    counters = torch.tensor([[place, sample, 0] for place in places], device=DEVICE)
    for i, (seed, place) in enumerate(zip(seeds, places)):
        noise = Noise(seed, sample).target(place, vocab, DEVICE)
        want = int((cut[i].double() + noise).argmax())
        for version in (choose_tokens.plain, choose_tokens.triton):
            assert int(version(cut, keys, counters)[i]) == want


@FEWER
@given(data=st.data())
def test_warped_scores(data):
    """Both versions leave the same tokens, but for one whose mass is within rounding of the cut."""
    d = Drawn(data)
    rows, vocab = d.one_of(1, 4), d.one_of(2, 37, 300)
    logits = 3 * d.normal(rows, vocab)
    if d.one_of(False, True):
        logits = logits.round()  # equal ones stand or fall together
    settings = [
        torch.tensor([d.one_of(*values) for _ in range(rows)], dtype=dtype, device=DEVICE)
        for values, dtype in [
            ((1.0, 0.7, 2.5), torch.float32),
            ((0, 1, 5, 1000), torch.int32),
            ((1.0, 0.9, 0.5, 0.01), torch.float32),
            ((0.0, 0.05, 0.3), torch.float32),
        ]
    ]
    plain = warp_scores.plain(logits, *settings)
    ours = warp_scores.triton(logits, *settings)
    both = plain.isfinite() & ours.isfinite()
    torch.testing.assert_close(ours[both], plain[both], rtol=1e-6, atol=0.0)
    assert torch.equal(both.any(-1), torch.ones(rows, dtype=torch.bool, device=DEVICE))
    probs = (logits.double() / settings[0][:, None].double()).softmax(-1)
    for row, token in (plain.isfinite() != ours.isfinite()).nonzero().tolist():
        kept = logits[row] >= logits[row].topk(min(vocab, int(settings[1][row]) or vocab))[0][-1]
        mass = probs[row].masked_fill(~kept, 0.0)
        mass = mass / mass.sum()
        below = mass[logits[row] <= logits[row, token]].sum().item()
        p, least = settings[2][row].item(), settings[3][row].item()
        ratio = (mass[token] / mass.max()).item()
        assert abs(below - (1 - p)) < 1e-5 or abs(ratio - least) < 1e-5
