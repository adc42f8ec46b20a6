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
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from specdec import Engine
from specdec.drafts.self_draft import SelfDraft
from specdec.errors import InvalidArgument, UnsupportedModel
from specdec.kernels.gather_pages import gather_pages
from specdec.kernels.label_scores import score_labels, update_labels
from specdec.kernels.select_pages import importance
from specdec.options import DraftOptions
from specdec.registry import SPARSE_VIEWS, VIEWS
from specdec.sparse.calibration import calibrate
from specdec.sparse.choosing import Choice
from specdec.sparse.chunk_means import ChunkMeans
from specdec.sparse.exact_mass import ExactMass
from specdec.sparse.label_channels import LabelChannels
from specdec.sparse.layout import Place
from specdec.sparse.page_bounds import PageBounds
from specdec.sparse.page_index import PageIndex, paged
from specdec.sparse.reading import extent
from specdec.sparse.recency import Recency
from specdec.sparse.scorer import Memo
from specdec.sparse.sharing import Sharing
from specdec.sparse.view import SparseView
from specdec.stats import Reads
from specdec.store import KVStore
from specdec.target import Target

RNG = random.Random(0)
PROMPTS = [[RNG.randrange(models.VOCAB) for _ in range(n)] for n in (70, 33, 5, 48)]
NEW = 14
PRESETS = SPARSE_VIEWS
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

    @property
    def per_logit(self):
        return self.page_size

    def summarize(self, k, memo):
        return k[:, :, 0, :0]

    def question(self, q, memo):
        return None

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
        drafter = SelfDraft("oracle", target, options)
        drafter.view, drafter.wants, drafter.name = view, view.wants, view.name
        return drafter

    return make


REFRESHES = ["pass", "round", "falling", "prompt", 2]
QUERIES = ["draft", "verified", "prompt"]


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("scorer", SCORERS)
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


def test_reads_are_counted(llama):
    """What a pass reads stays within the budget however long the text grows, or is everything."""
    for view in PRESETS:
        out = llama.generate(PROMPTS, drafter=view, max_new_tokens=40, budget=32, sink=3, recent=4)
        long, _, short, _ = (g.stats.reads[view] for g in out)
        assert 0 < max(long.tokens) <= 32 and long.full_passes == 0 and long.passes > 20
        assert min(long.context) >= 69
        assert 0 < short.full_passes < short.passes  # 5 to 45 tokens
        whole = llama.generate(PROMPTS[0], drafter=view, max_new_tokens=9, budget=200)
        reads = whole.stats.to_dict()["reads"][view]
        assert reads["full_passes"] == reads["passes"] > 0
        assert reads["tokens_per_pass"] == reads["context_per_pass"]
    lossy = llama.generate(PROMPTS[0], view="snapkv", drafter="none", max_new_tokens=40, budget=16,
                           sink=2, recent=2)  # fmt: skip
    assert max(lossy.stats.reads["snapkv"].tokens) == 16
    both = llama.generate(PROMPTS[0], drafter="ngram+quest", max_new_tokens=9, budget=200)
    assert set(both.stats.reads) == {"quest"}
    three = llama.generate(PROMPTS[0], drafter="triforce", max_new_tokens=9, **SMALL)
    assert set(three.stats.reads) == {"triforce-chunks"}
    assert not llama.generate(PROMPTS[0], drafter="ngram", max_new_tokens=3).stats.reads


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_choice_makes_way_for_what_came_since(data):
    """Never more than the budget, half of it pages at least, the latest tokens at least."""
    size, levels = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 3))
    budget = data.draw(st.integers(2 * size, 100))
    covered = [size * data.draw(st.integers(0, 20)) for _ in range(levels)]
    lengths = [c + data.draw(st.integers(0, 90)) for c in covered]
    pages = min(sum(covered), budget) // size
    choice = Choice(0, torch.zeros(1, pages, dtype=torch.int64), covered)
    place = Place(0, 0, [0] * levels, lengths, levels, Reads())
    count, spans = extent(choice, place, budget, size)
    tail, since = sum(end - start for _, start, end in spans), sum(lengths) - sum(covered)
    assert count * size + tail <= budget
    assert tail == min(since, budget - count * size)
    assert count == pages or count >= budget // 2 // size
    read = [(at, token) for at, start, end in spans for token in range(start, end)]
    every = [(at, n) for at in range(levels) for n in range(covered[at], lengths[at])]
    assert read == every[len(every) - tail :]


def test_label_channels_of_a_file(llama, tmp_path, monkeypatch):
    """Calibrated by |q k| on some text, saved, read again, refused for another model."""
    monkeypatch.setenv("SPECDEC_CACHE", str(tmp_path / "cache"))
    order = calibrate(llama.target, PROMPTS[0], "a text")
    heads, dim = models.build("llama").config.num_key_value_heads, 8
    assert [layer.shape for layer in order.layers] == [(heads, dim)] * llama.target.num_layers
    assert all((layer.sort(-1).values == torch.arange(dim)).all() for layer in order.layers)
    file = tmp_path / "channels.json"
    order.save(file)
    want = llama.generate(PROMPTS, drafter="none", max_new_tokens=NEW)
    kwargs = {"drafter": "double-sparsity", "max_new_tokens": NEW, **SMALL}
    for channels in (str(file), file, "prompt", "text", order):
        out = llama.generate(PROMPTS, channels=channels, **kwargs)
        assert [g.token_ids for g in out] == [g.token_ids for g in want]
    (kept,) = (tmp_path / "cache" / "channels").iterdir()
    assert kept.name == order.fingerprint and (kept / "channels.json").exists()
    other = Engine(models.build("llama", seed=1), hostile.tokenizer(models.VOCAB))
    for message, engine, channels in [
        ("was made for another model", other, file),
        ("cannot be read .No such file", llama, tmp_path / "none.json"),
        ("is not a channel file", llama, __file__),
        ("'text' needs a tokenizer", Engine(models.build("llama")), "text"),
    ]:
        with pytest.raises(InvalidArgument, match=message):
            engine.generate(PROMPTS, channels=channels, **kwargs)
    with pytest.raises(InvalidArgument, match="has no use for channels"):
        llama.generate(PROMPTS, drafter="quest", channels="text")


def test_calibration_finds_the_channels_that_count(llama):
    """The first channels are those with the largest mean |q k|, by a pass of transformers' own."""
    model = models.build("llama")
    known = {}
    for layer, block in enumerate(model.model.layers):
        attention = block.self_attn
        attention.q_proj.register_forward_hook(lambda m, i, o, n=layer: known.update({("q", n): o}))
        attention.k_proj.register_forward_hook(lambda m, i, o, n=layer: known.update({("k", n): o}))
    with torch.inference_mode():
        model(torch.tensor([PROMPTS[0]]), use_cache=False)
        places = torch.arange(len(PROMPTS[0]))[None]
        cos, sin = model.model.rotary_emb(known["q", 0], places)
    order = calibrate(llama.target, PROMPTS[0], "a text")
    for layer in range(2):
        q, k = (known[name, layer][0].unflatten(-1, (-1, 8)).transpose(0, 1)[None] for name in "qk")
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        product = (q[0].unflatten(0, (2, 2)) * k[0][:, None]).abs().mean(dim=(1, 2))
        ranked = product.gather(1, order.layers[layer])
        assert (ranked[:, :-1] >= ranked[:, 1:] - 1e-6).all()


def test_dense_layers_and_anchors_make_way():
    """A preset's own dense layers and anchors give way to what the caller names."""
    target = Target(models.build("llama"))
    sharing = VIEWS["tidal"].load()(target, DraftOptions(anchors=[1, 0, 1])).sharing
    assert sharing.anchors == (0, 1) and sharing.dense == ()
    sharing = VIEWS["tidal"].load()(target, DraftOptions(dense=(1,))).sharing
    assert sharing.anchors == (0,) and sharing.dense == (1,)
    sharing = VIEWS["quest"].load()(target, DraftOptions(anchors=(0,))).sharing
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_labels_in_4_bits_are_those_of_the_kernel(dtype):
    """The same channels, codes and scores, up to the kernel's sums in float32."""
    torch.manual_seed(0)
    heads, tokens, dim = 2, 30, 16
    k, q = torch.randn(heads, tokens, 1, dim).to(dtype), torch.randn(heads, 3, dim).to(dtype)
    scorer, memo = LabelChannels(9, bits=4), Memo()
    summary = scorer.summarize(k, memo)
    channels = memo.channels.int()
    assert channels.shape == (2, 8) and summary.shape[-1] == 4 + 2 * k.element_size()
    labels = torch.zeros(1, heads, tokens, 4, dtype=torch.uint8)
    scales = torch.zeros(1, heads, tokens, 2, dtype=dtype)
    keys, zero, length = k[None, :, :, 0], torch.tensor([0]).int(), torch.tensor([tokens]).int()
    update_labels.plain(labels, keys, channels, zero, length, tokens=tokens, scales=scales)
    assert torch.equal(summary[..., :4], labels[0])
    logits = scorer.logits(q, summary, 0.5, memo).amax(1)
    want = score_labels.plain(q[None], labels, channels, length, zero, scales)[0] * 0.5
    torch.testing.assert_close(
        logits.float(), want, rtol=3e-2, atol=6e-2 if dtype == torch.bfloat16 else 1e-5
    )
    with pytest.raises(InvalidArgument, match="label_bits=8: give 4, or 16"):
        LabelChannels(bits=8)


def test_label_bits_is_an_option(llama):
    kwargs = {
        "drafter": "double-sparsity",
        "max_new_tokens": 20,
        "budget": 12,
        "sink": 2,
        "recent": 2,
    }
    want = llama.generate(PROMPTS, max_new_tokens=20, drafter="none")
    for bits in (4, 16):
        got = llama.generate(PROMPTS, label_bits=bits, **kwargs)
        assert [g.token_ids for g in got] == [g.token_ids for g in want]
    with pytest.raises(InvalidArgument, match="label_bits=3"):
        llama.generate(PROMPTS, label_bits=3, **kwargs)
