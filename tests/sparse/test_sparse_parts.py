"""What sparse views are made of: bounds, page indices, choices and plans keep their promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.cache.store import KVStore
from specdec.errors import InvalidArgument, UnsupportedModel
from specdec.forward.layout import Segments
from specdec.forward.plan import Selection
from specdec.forward.view_reads import ReadStats
from specdec.kernels.attention.gather_pages import gather_pages
from specdec.kernels.selection.select_pages import importance
from specdec.model.target import Target
from specdec.sparse.budget import row_plan
from specdec.sparse.methods.quest import Quest
from specdec.sparse.methods.tidal import Tidal
from specdec.sparse.page_index import PageIndex, paged
from specdec.sparse.scorers.base import Memo
from specdec.sparse.scorers.chunk_means import ChunkMeans
from specdec.sparse.scorers.exact_mass import ExactMass
from specdec.sparse.scorers.label_channels import LabelChannels
from specdec.sparse.scorers.page_bounds import PageBounds

from helpers import models

pytestmark = pytest.mark.fast


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_choice_makes_way_for_what_came_since(data):
    """Never more than the budget, half of it pages at least, the latest tokens at least."""
    size, levels = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 3))
    budget = data.draw(st.integers(2 * size, 100))
    covered = [size * data.draw(st.integers(0, 20)) for _ in range(levels)]
    lengths = [c + data.draw(st.integers(0, 90)) for c in covered]
    pages = min(sum(covered), budget) // size
    selection = Selection(0, torch.zeros(1, pages, dtype=torch.int64), tuple(covered), size)
    segments = Segments(0, 0, [0] * levels, lengths, levels, ReadStats())
    plan = row_plan(selection, segments, budget)
    count, spans = plan.count, list(zip(range(levels), plan.since, lengths))
    tail, since = sum(end - start for _, start, end in spans), sum(lengths) - sum(covered)
    assert count * size + tail <= budget
    assert tail == min(since, budget - count * size)
    assert count == pages or count >= budget // 2 // size
    read = [(at, token) for at, start, end in spans for token in range(start, end)]
    every = [(at, n) for at in range(levels) for n in range(covered[at], lengths[at])]
    assert read == every[len(every) - tail :]


def test_dense_layers_and_anchors_make_way():
    """A preset's own dense layers and anchors give way to what the caller names."""
    target = Target(models.build("llama"))
    sharing = Tidal(anchors=[1, 0, 1]).view(target).sharing
    assert sharing.anchors == (0, 1) and sharing.dense == ()
    sharing = Tidal(dense=(1,)).view(target).sharing
    assert sharing.anchors == (0,) and sharing.dense == (1,)
    sharing = Quest(anchors=(0,)).view(target).sharing
    assert sharing.anchors == (0,) and sharing.dense == ()


def test_bad_views():
    target = Target(models.build("gemma3"))
    bad = {
        "budget=20 is below": {"budget": 20, "sink": 16, "recent": 4},
        "anchor 0 is a sliding-window layer": {"anchors": (0,)},
        "layer 9, and the model has layers 0 to 5": {"anchors": (9,)},
        "anchors=5: give layer numbers": {"anchors": 5},
        "names no layer": {"anchors": ()},
        "anchor 5 is a dense layer": {"anchors": (5,), "dense": (5,)},
        "refresh=": {"refresh": "sometimes"},
        "budget=-1": {"budget": -1},
    }
    for message, kwargs in bad.items():
        with pytest.raises(InvalidArgument, match=message):
            Tidal(**kwargs).view(target)
    with pytest.raises(InvalidArgument, match=r"dense=\(5,\) takes all layers that choose"):
        Tidal(dense=(5,)).view(target)
    for kind, name in ((Quest, "quest"), (Tidal, "tidal")):
        with pytest.raises(UnsupportedModel, match=f"'{name}' has nothing to leave out"):
            kind().view(Target(models.build("mistral")))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 20), pages=st.integers(1, 9), size=st.integers(1, 5))
def test_bounds_are_bounds(seed, pages, size):
    """No key has a larger logit than its page's bound; the mass scorer's softmax is the mass."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(2, 3, 4, generator=generator).double()
    k = torch.randn(2, pages, size, 4, generator=generator).double()
    bound = PageBounds(size).logits(q, PageBounds(size).summarize(k, Memo()), 1.0, Memo())
    exact = torch.einsum("hmd,hpsd->hmps", q, k)
    assert (bound >= exact.amax(-1) - 1e-12).all()
    mass = (exact * 0.7).flatten(2).softmax(-1).unflatten(-1, (pages, size)).sum(-1)
    logits = ExactMass(size).logits(q, k, 0.7, Memo())
    for votes, want in {"max": mass.amax(1), "mean": mass.mean(1)}.items():
        got = importance(logits, votes, 1, per_page=size)
        torch.testing.assert_close(got, want.float())
    assert importance(mass.log(), "max", 3).shape == (2, pages)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_indices_follow_the_store(data):
    """Commit of any path, rollback and fork: summaries equal those of the keys as they stand."""
    scorer = data.draw(st.sampled_from([PageBounds(4), ChunkMeans(3), LabelChannels(2)]))
    store = KVStore(num_layers=1, sequences=2, capacity=64)
    for _ in range(data.draw(st.integers(1, 9))):
        sequence = data.draw(st.integers(0, store.sequences - 1))
        action = data.draw(st.sampled_from(["commit", "commit", "crop", "fork"]))
        if action == "commit":
            staged = data.draw(st.integers(1, 12))
            k = torch.randn(1, 2, staged, 4)
            store.stage(0, [sequence], k, k, 0)
            path = data.draw(st.lists(st.integers(0, staged - 1), unique=True))
            if store.length(sequence) + len(path) < 52:
                store.commit(sequence, sorted(path))
        elif action == "crop":
            least, most = store.offset(sequence), store.length(sequence)
            store.crop(sequence, data.draw(st.integers(least, most)))
        elif len(store.levels) < 3:
            store.stack([s // 2 for s in range(2 * store.sequences)], 64)
        for level in store.levels:
            for row in range(level.rows):
                if level.k[0] is not None and data.draw(st.booleans()):
                    check_index(level, row, scorer)


def check_index(level, row, scorer):
    """The index of a row, brought up to date, against summaries of its keys made anew."""
    index = PageIndex.of(level, 0, row, scorer)
    if index is None:
        index = PageIndex.add(level, 0, row, scorer, Memo(channels=torch.tensor([[0, 2], [1, 3]])))
    length = int(level.length[row])
    pages = index.update(level.k[0][row], length, torch.device("cpu"))
    assert pages == length // scorer.page_size
    if pages:
        want = scorer.summarize(paged(level.k[0][row], 0, pages, scorer.page_size), index.memo)
        torch.testing.assert_close(index.summary[:, :pages], want)


def test_gather_pages():
    x = torch.arange(2 * 11 * 3).view(2, 11, 3)
    got = gather_pages(x, torch.tensor([[0, 2], [1, 4]]), 2)
    assert torch.equal(got[0], x[0, [0, 1, 4, 5]])
    assert torch.equal(got[1], x[1, [2, 3, 8, 9]])
