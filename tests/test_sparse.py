"""Sparse views: drafts from them never change the text, and their parts do what they promise."""

from __future__ import annotations

import random
from dataclasses import dataclass

import hostile
import models
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec import Engine
from specdec.drafts.self_draft import SelfDraft
from specdec.errors import InvalidArgument, UnsupportedModel
from specdec.options import DraftOptions
from specdec.registry import VIEWS
from specdec.sparse.chunk_means import ChunkMeans
from specdec.sparse.exact_mass import ExactMass
from specdec.sparse.label_channels import LabelChannels
from specdec.sparse.page_bounds import PageBounds
from specdec.sparse.page_index import PageIndex, gather, paged
from specdec.sparse.recency import Recency
from specdec.sparse.scorer import Memo, importance
from specdec.sparse.sharing import Sharing
from specdec.sparse.view import SparseView
from specdec.store import KVStore
from specdec.target import Target

RNG = random.Random(0)
PROMPTS = [[RNG.randrange(models.VOCAB) for _ in range(n)] for n in (70, 33, 5, 48)]
NEW = 14
PRESETS = [name for name in VIEWS if name != "full"]
SMALL = {"budget": 24, "sink": 3, "recent": 4}


@pytest.fixture(scope="module", params=["llama", "llama-mha", "qwen3", "gemma3"])
def engine(request):
    return Engine(models.build(request.param), hostile.tokenizer(models.VOCAB))


@pytest.fixture(scope="module")
def llama():
    return Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))


@pytest.fixture(scope="module")
def plain(engine):
    known = {}

    def texts(**kwargs):
        key = repr(sorted(kwargs.items()))
        if key not in known:
            known[key] = [
                g.token_ids
                for g in engine.generate(PROMPTS, drafter="none", max_new_tokens=NEW, **kwargs)
            ]
        return known[key]

    return texts


MODES = {
    "greedy": {},
    "coupled": {"temperature": 0.9, "seed": 3},
    "samples": {"temperature": 0.9, "seed": 3, "num_return_sequences": 2},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("view", PRESETS)
def test_presets_draft_losslessly(engine, plain, view, mode):
    """Ragged batches, and samples that share a prompt; some rows are shorter than the budget."""
    kwargs = MODES[mode]
    out = engine.generate(PROMPTS, drafter=view, max_new_tokens=NEW, **SMALL, **kwargs)
    assert [g.token_ids for g in out] == plain(**kwargs)
    assert sum(g.stats.num_accepted_draft_tokens for g in out) > 0
    assert all(g.lossless and g.drafter == view for g in out)


@dataclass(frozen=True)
class Noise:
    """A scorer that knows nothing: random pages, other ones each time."""

    page_size: int = 4
    name: str = "noise"
    key: str = "noise"

    def summarize(self, k, memo):
        return k[:, :, 0, :0]

    def logits(self, q, pages, scale, memo):
        return torch.rand(pages.shape[0], q.shape[1], pages.shape[1])


SCORERS = {
    "bounds": PageBounds(4),
    "means": ChunkMeans(4),
    "labels": LabelChannels(3),
    "mass": ExactMass(1),
    "mass-pages": ExactMass(4),
    "recency": Recency(),
    "noise": Noise(),
}
SHARINGS = {
    "each": Sharing(),
    "dense-first": Sharing(dense=(0,)),
    "anchor": Sharing(anchors=(0,)),
    "exact-anchor": Sharing(anchors=(0,), exact_anchors=True),
    "late-anchor": Sharing(anchors=(1,)),
    "all-heads": Sharing(all_heads=True),
}


def drafter_of(view):
    """A self-draft on a view that is no preset."""

    def make(target, options):
        drafter = SelfDraft("oracle", target, options)
        drafter.view, drafter.wants, drafter.name = view, view.wants, view.name
        return drafter

    return make


CHOOSING = [("draft", "pass"), ("verified", "round"), ("prompt", "prompt"), ("verified", "falling"),
            ("draft", 2), ("draft", "round"), ("prompt", "pass")]  # fmt: skip


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("scorer", SCORERS)
def test_any_scorer_with_any_plan(llama, scorer, sharing):
    """The grid; who chooses and when goes round in it."""
    place = list(SCORERS).index(scorer) + 3 * list(SHARINGS).index(sharing)
    queries, refresh = CHOOSING[place % len(CHOOSING)]
    view = SparseView(
        "x", SCORERS[scorer], SHARINGS[sharing], budget=16, sink=2, recent=3,
        queries=queries, refresh=refresh, votes="mean", pool=3,
    )  # fmt: skip
    kwargs = {"max_new_tokens": 9, "temperature": 0.8, "seed": 1}
    want = llama.generate(PROMPTS[:2], drafter="none", **kwargs)
    out = llama.generate(PROMPTS[:2], drafter=drafter_of(view), draft_width=2, **kwargs)
    assert [g.token_ids for g in out] == [g.token_ids for g in want]


def test_a_view_that_reads_next_to_nothing(llama):
    """Worst draft: acceptance may fall to nothing, the text may not change."""
    view = SparseView("blind", Noise(1), budget=1, sink=0, recent=0, refresh="pass")
    want = llama.generate(PROMPTS, drafter="none", max_new_tokens=NEW)
    out = llama.generate(PROMPTS, drafter=drafter_of(view), max_new_tokens=NEW)
    assert [g.token_ids for g in out] == [g.token_ids for g in want]


@pytest.mark.parametrize("acceptance", ["coupled", "rejection"])
@pytest.mark.parametrize("inner", ["ngram", "model"])
def test_triforce(engine, plain, inner, acceptance):
    """Three levels, greedy in both rules and sampled under the coupled one."""
    kwargs = {"drafter": "triforce", "max_new_tokens": NEW, "min_ngram": 1, **SMALL}
    if inner == "model":
        kwargs["draft_model"] = models.disturbed(engine.model, 0.03)
    out = engine.generate(PROMPTS, acceptance=acceptance, **kwargs)
    assert [g.token_ids for g in out] == plain()
    assert max(g.stats.mean_acceptance_length for g in out) > 2
    sampled = engine.generate(PROMPTS, acceptance=acceptance, temperature=0.9, seed=3, **kwargs)
    if acceptance == "coupled":
        assert [g.token_ids for g in sampled] == plain(temperature=0.9, seed=3)


def test_draft_passes_leave_the_store_alone(llama):
    """What a draft writes is dropped: NaN in it reaches nothing."""
    want = llama.generate(PROMPTS, drafter="none", max_new_tokens=NEW)
    stream = llama.stream(PROMPTS, drafter="quest", max_new_tokens=NEW, **SMALL)
    for _ in stream:
        draft = stream.drafter.model.store
        with torch.inference_mode():
            for buffer in (*draft.levels[-1].k, *draft.levels[-1].v):
                buffer.fill_(torch.nan)  # between rounds everything in it is out of date
    assert [g.token_ids for g in stream.generations] == [g.token_ids for g in want]
    assert all(g.stats.num_accepted_draft_tokens for g in stream.generations)


def test_lossy_view_says_so(llama):
    """A sparse view of the target itself is another law, and marked."""
    out = llama.generate(PROMPTS, view="streaming", drafter="none", max_new_tokens=NEW, **SMALL)
    want = llama.generate(PROMPTS, drafter="none", max_new_tokens=NEW)
    assert not any(g.lossless for g in out) and all(g.view == "streaming" for g in out)
    assert out[2].token_ids == want[2].token_ids  # shorter than the budget: nothing is left out
    assert [g.token_ids for g in out] != [g.token_ids for g in want]
    wide = llama.generate(PROMPTS, view="quest", drafter="ngram", max_new_tokens=NEW, budget=512)
    assert [g.token_ids for g in wide] == [g.token_ids for g in want]


@pytest.mark.parametrize("view", ["oracle", "quest", "tidal", "triforce-chunks"])
def test_a_budget_of_everything_is_the_full_view(llama, view):
    """With nothing left out the draft is the target, and every draft token is accepted."""
    out = llama.generate(
        PROMPTS[0], drafter=view, max_new_tokens=NEW, budget=400, num_draft_tokens=3
    )
    assert out.stats.draft_acceptance_rate == 1.0


def test_early_exit(llama):
    """A draft that leaves the model after its first layer; and triforce's figures by level."""
    want = llama.generate(PROMPTS, drafter="none", max_new_tokens=NEW)
    out = llama.generate(PROMPTS, drafter="quest", draft_layers=1, max_new_tokens=NEW, **SMALL)
    assert [g.token_ids for g in out] == [g.token_ids for g in want]
    with pytest.raises(InvalidArgument, match="give 1 to 1"):
        llama.generate(PROMPTS, drafter="quest", draft_layers=2)
    out = llama.generate(PROMPTS[0], drafter="triforce", max_new_tokens=NEW, min_ngram=1, **SMALL)
    (inner,) = out.stats.to_dict()["inner"].values()
    assert inner["num_spec_steps"] >= out.stats.num_spec_steps


def test_bad_views():
    target = Target(models.build("gemma3"))
    bad = {
        "budget=20 is below": {"budget": 20, "sink": 16, "recent": 4},
        "anchor 0 is a sliding-window layer": {"anchors": (0,)},
        "layer 9, and the model has layers 0 to 5": {"anchors": (9,)},
        "refresh=": {"refresh": "sometimes"},
        "budget=-1": {"budget": -1},
    }
    for message, kwargs in bad.items():
        with pytest.raises(InvalidArgument, match=message):
            VIEWS["tidal"].load()(target, DraftOptions(**kwargs))
    with pytest.raises(UnsupportedModel, match="nothing to leave out"):
        VIEWS["quest"].load()(Target(models.build("mistral")), DraftOptions())


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
    mass = ExactMass(size).logits(q, k, 0.7, Memo()).softmax(-1)
    want = (exact * 0.7).flatten(2).softmax(-1).unflatten(-1, (pages, size)).sum(-1)
    torch.testing.assert_close(mass, want)
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
            store.fork(2, 64)
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
    pages = index.update(level.k[0][row], length)
    assert pages == length // scorer.page_size
    if pages:
        want = scorer.summarize(paged(level.k[0][row], 0, pages, scorer.page_size), index.memo)
        torch.testing.assert_close(index.summary[:, :pages], want)


def test_gather():
    x = torch.arange(2 * 11 * 3).view(2, 11, 3)
    got = gather(x, torch.tensor([[0, 2], [1, 4]]), 2)
    assert torch.equal(got[0], x[0, [0, 1, 4, 5]])
    assert torch.equal(got[1], x[1, [2, 3, 8, 9]])
