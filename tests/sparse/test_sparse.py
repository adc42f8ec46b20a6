"""Drafts from sparse views never change the text, whatever the view leaves out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
import torch

from specdec import Engine, TokenTree
from specdec.errors import InvalidArgument
from specdec.forward.query_recorder import QueryRecorder
from specdec.registry import DRAFTERS, VIEWS, page_views
from specdec.sparse.layer_sharing import Sharing
from specdec.sparse.scorers.base import PageScorer
from specdec.sparse.scorers.chunk_means import ChunkMeans
from specdec.sparse.scorers.exact_mass import ExactMass
from specdec.sparse.scorers.label_channels import LabelChannels
from specdec.sparse.scorers.page_bounds import PageBounds
from specdec.sparse.scorers.recency import Recency
from specdec.sparse.view import SparseView

from helpers import hostile, models
from helpers.matrix import crossed
from helpers.sparse_texts import NEW, PROMPTS, SMALL

PRESETS = page_views()


ARCHITECTURES = ["llama", "llama-mha", "qwen3", "gemma3"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
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


@dataclass(frozen=True)
class Noise(PageScorer):
    """A scorer that knows nothing: random pages, other ones each time."""

    page_size: int = 4
    name: str = "noise"

    def summarize(self, k, memo):
        return k[:, :, 0, :0]

    def logits(self, q, pages, scale, memo):
        return torch.rand(pages.shape[0], q.shape[1], pages.shape[1])


SCORERS = {
    "bounds": PageBounds(4),
    "means": ChunkMeans(4),
    "labels": LabelChannels(3),
    "labels-in-4-bits": LabelChannels(5, bits=4),
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
        drafter = DRAFTERS["oracle"].method(options.given).drafter(target)
        drafter.view, drafter.needs, drafter.name = view, view.needs, view.name
        return drafter

    return make


REFRESHES = ["pass", "round", "falling", "prompt", 2]
QUERIES = ["draft", "verified", "prompt"]


@crossed(together=1, scorer=SCORERS, sharing=SHARINGS)
def test_any_scorer_with_any_plan(llama, plain_pair, scorer, sharing):
    """The grid of scorers, plans and refreshes; whose queries choose goes round in it."""
    for place, refresh in enumerate(REFRESHES):
        place += list(SCORERS).index(scorer) + list(SHARINGS).index(sharing)
        view = SparseView(
            "x", SCORERS[scorer], SHARINGS[sharing], budget=16, sink=2, recent=3,
            queries=QUERIES[place % 3], refresh=refresh, votes="mean", pool=3,
        )  # fmt: skip
        out = llama.generate(PROMPTS[:2], drafter=drafter_of(view), draft_width=2, **PAIR)
        assert [g.token_ids for g in out] == plain_pair, refresh
        read = [tokens for g in out for tokens in g.stats.reads["x"].tokens]
        assert max(read) <= 16, refresh


PAIR = {"max_new_tokens": 7, "temperature": 0.8, "seed": 1}


@pytest.fixture(scope="module")
def plain_pair(llama):
    return [g.token_ids for g in llama.generate(PROMPTS[:2], drafter="none", **PAIR)]


def test_a_view_that_reads_next_to_nothing(llama):
    """Worst draft: acceptance may fall to nothing, the text may not change."""
    view = SparseView("blind", Noise(1), budget=1, sink=0, recent=0, refresh="pass")
    want = llama.generate(PROMPTS, drafter="none", max_new_tokens=NEW)
    out = llama.generate(PROMPTS, drafter=drafter_of(view), max_new_tokens=NEW)
    assert [g.token_ids for g in out] == [g.token_ids for g in want]


@crossed(
    indirect=["engine"], engine=ARCHITECTURES, inner=["ngram", "model"],
    acceptance=["coupled", "rejection"],
)  # fmt: skip
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
        draft = stream.drafter.drafter.model.store
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


class NowAndThen(hostile.Bushy):
    """Every second round a wide tree, of which a node is accepted, and none in between."""

    def tree(self, row, limit):
        return super().tree(row, limit) if row.round % 2 else TokenTree.root(row.tokens[-1])


@pytest.mark.parametrize("drafter", ["none", "ngram", NowAndThen])
def test_a_lossy_view_goes_by_queries_of_the_last_verification(llama, monkeypatch, drafter):
    """Not by those of the pass that it selects for, whose nodes are others than were accepted."""
    seen, asked = Counter(), Counter()
    see, accepted = QueryRecorder.see, QueryRecorder.accepted

    def count(self, call, pass_):
        seen[call.layer] += not pass_.is_chunk
        see(self, call, pass_)

    def check(self, layer, sequence):
        assert seen[layer] == asked[layer]
        asked[layer] += 1
        return accepted(self, layer, sequence)

    monkeypatch.setattr(QueryRecorder, "see", count)
    monkeypatch.setattr(QueryRecorder, "accepted", check)
    out = llama.generate(PROMPTS[1], drafter=drafter, view="verified", max_new_tokens=NEW, **SMALL)
    assert len(out.token_ids) == NEW and asked[0] == out.stats.num_spec_steps


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


# Views that give some layers more than the budget, so that such a layer may read everything.
LAYERED = {
    "compresskv",
    "layer-defensive",
    "prefixkv",
    "windowkv",
    "uncomp",
    "epicache",
    "d2o",
    "actqkv",
}
# Whose pages are so large that they need more than the others' 32.
BUDGETS = {"actqkv": 40}


def most(llama, view):
    """How many tokens a layer of a view with the smallest budget may read."""
    budget = BUDGETS.get(view, 32)
    method = VIEWS[view].method({"budget": budget, "sink": 3, "recent": 4})
    made = method.resolved(llama.target, llama.tokenizer).view(llama.target)
    if made.reads is None:
        return 200  # some heads read everything
    if made.layers is not None:
        return budget * llama.target.num_layers  # one layer may have all of it
    # entries stand for tokens beyond the budget: a few means, as many as were kept, a quarter of
    # the others (of at most 105 tokens), or of their clusters
    beside = {"snapkv-merged": 3, "ems": 32, "look-m": 32, "elastic": 32, "kvmerger": 20}
    return budget + {**beside, "retrieval": 2}.get(view, 0)


@pytest.mark.parametrize("view", PRESETS)
def test_reads_are_counted(llama, view):
    """What a pass reads stays within the budget however long the text grows, or is everything."""
    small = {"budget": BUDGETS.get(view, 32), "sink": 3, "recent": 4}
    out = llama.generate(PROMPTS, drafter=view, max_new_tokens=40, **small)
    long, _, short, _ = (g.stats.reads[view] for g in out)
    assert 0 < max(long.tokens) <= most(llama, view) and long.passes > 20
    is_even = most(llama, view) <= 64 and view not in LAYERED
    assert long.full_passes == 0 or not is_even
    assert min(long.context) >= 69
    assert 0 < short.full_passes < short.passes or not is_even  # 5 to 45 tokens
    whole = llama.generate(PROMPTS[0], drafter=view, max_new_tokens=9, budget=200)
    reads = whole.stats.to_dict()["reads"][view]
    assert reads["full_passes"] == reads["passes"] > 0
    assert reads["tokens_per_pass"] == reads["context_per_pass"]


def test_whose_reads_are_counted(llama):
    """Those of a lossy view, of drafters in a combination and inside each other; no others."""
    lossy = llama.generate(PROMPTS[0], view="snapkv", drafter="none", max_new_tokens=40, budget=16,
                           sink=2, recent=2)  # fmt: skip
    assert max(lossy.stats.reads["snapkv"].tokens) == 16
    both = llama.generate(PROMPTS[0], drafter="ngram+quest", max_new_tokens=9, budget=200)
    assert set(both.stats.reads) == {"quest"}
    three = llama.generate(PROMPTS[0], drafter="triforce", max_new_tokens=9, **SMALL)
    assert set(three.stats.reads) == {"triforce-chunks"}
    assert not llama.generate(PROMPTS[0], drafter="ngram", max_new_tokens=3).stats.reads
