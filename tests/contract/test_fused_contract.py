"""The contract on the path that users of a CPU take: float32, packed weights, fused layers, Numba.

Passes of different width round differently here, so a text may part from plain decoding where two
tokens tie, and only there: a test computes both scores in float64 and allows a gap of what float32
itself makes wrong at that place, times a small factor. A real error is far larger.
"""

from __future__ import annotations

import copy
import itertools
from functools import cache
from unittest.mock import patch

import pytest
import torch

from helpers import hostile, models
from helpers.matrix import crossed
from helpers.methods import METHODS, as_a_tree, logits_of_passes, smallest

pytest.importorskip("numba", reason="numba is not installed")

from specdec import Engine
from specdec.check import first_difference
from specdec.decoding.cached_model import CachedModel
from specdec.errors import InvalidArgument, SpecdecError, UnsupportedModel
from specdec.forward.full_view import FullView
from specdec.forward.query_recorder import QueryRecorder
from specdec.kernels.attention import level_attention_numba
from specdec.kernels.linear import decoder_run_numba
from specdec.model.early_exit import first_layers
from specdec.model.fused_run import FusedRun
from specdec.model.probes import chain
from specdec.model.target import Target
from specdec.offload.kv_memory import KVMemory
from specdec.offload.split import Sizes
from specdec.registry import VIEWS
from specdec.sampling.noise import Noise
from specdec.sampling.sampler import Sampler
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree

PROMPTS = [[1, 2, 3, 4, 5], [7], [3, 4] * 6, [i * i % 37 for i in range(80)]]
NEW = 16

# Heads of 16, which the Numba attention takes; biases and norms are random too.
MODELS = {
    "llama": {"head_dim": 16, "num_attention_heads": 6},  # three query heads to a key head
    "qwen3": {"head_dim": 16},  # norms of heads
    "gemma3": {"head_dim": 16},  # sliding windows, norms behind the blocks, exact powers of two
    "qwen2": {"head_dim": 16, "hidden_size": 64},  # biases
    "phi3": {"hidden_size": 64, "sliding_window": None},  # joint projections
}
DRAFTERS = {
    "ngram": {"drafter": "ngram", "min_ngram": 1},
    "model": {"drafter": "model"},
    "model-tree": {"drafter": "model", "draft_width": 3},
    "streaming": {"drafter": "streaming"},
    "quest": {"drafter": "quest", "budget": 40, "sink": 3, "recent": 4},
    "snapkv": {"drafter": "snapkv", "budget": 24, "sink": 3, "recent": 4},
    "int4": {"drafter": "streaming", "draft_weights": "int4"},
    "int8": {"drafter": "triforce", "draft_weights": "int8", "min_ngram": 1},
    **{kind.__name__: {"drafter": kind} for kind in hostile.HOSTILE},
}
MODES = {"greedy": {}, "coupled": {"temperature": 0.9, "seed": 3}}


class Fused:
    """An engine on a packed model, and the model as transformers has it, in two precisions."""

    def __init__(self, name):
        model = models.build(name, dtype=torch.float32, **MODELS[name])
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in model.parameters():
                if p.dim() == 1:
                    p.add_(0.2 * torch.randn(p.shape, generator=generator))
        self.stock = copy.deepcopy(model)
        self.exact = copy.deepcopy(model).double()
        self.draft = models.disturbed(model, 0.02)
        self.engine = Engine(model, hostile.tokenizer(models.VOCAB))
        self.known = {}

    def generate(self, prompts, **kwargs):
        if kwargs["drafter"] == "model":
            kwargs["draft_model"] = self.draft
        return self.engine.generate(prompts, max_new_tokens=NEW, **kwargs)

    def plain(self, prompt, **kwargs):
        key = repr((prompt, sorted(kwargs.items())))
        if key not in self.known:
            self.known[key] = self.generate([prompt], drafter="none", **kwargs)
        return self.known[key]

    @torch.inference_mode()
    def is_tie(self, ids, tokens, mode, prompt, sample):
        """Whether float32 may take either of two tokens for the best after `ids`."""
        exact, single = (
            model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double()
            for model in (self.exact, self.stock)
        )
        error = (exact - single).abs().max().item()
        scores = exact
        if mode:
            noise = Noise.of(mode["seed"], prompt, sample)
            noise = noise.target(len(ids), models.VOCAB, "cpu")
            scores = exact / mode["temperature"] + noise
        return scores.max().item() - scores[tokens].min().item() <= 8 * error

    def compare(self, prompts, generations, mode):
        """Every text is plain decoding's, up to a tie."""
        ties = 0
        samples = len(generations) // len(prompts)
        for i, g in enumerate(generations):
            prompt = prompts[i // samples]
            own = {**mode, "num_return_sequences": samples} if samples > 1 else mode
            want = self.plain(prompt, **own)[i % samples].token_ids
            assert len(g.token_ids) == NEW and g.lossless
            place = first_difference(want, g.token_ids)
            if place is not None:
                ids = [*prompt, *want[:place]]
                either = [want[place], g.token_ids[place]]
                assert self.is_tie(ids, either, mode, prompt, i % samples), (
                    f"row {i} parts at {place} from {want} to {g.token_ids}"
                )
                ties += 1
        assert ties <= 1  # they are rare


fused_of = cache(Fused)  # once a process


@pytest.fixture(scope="module", params=MODELS)
def fused(request):
    return fused_of(request.param)


def test_the_fused_path_is_the_one_that_runs(fused):
    packing = fused.engine.packing
    assert len(packing.fused) == fused.engine.target.num_layers
    assert packing.weights
    runs = {id(forward.run): forward.run for forward in packing.forwards.values()}
    assert sum(len(run.layers) for run in runs.values()) == fused.engine.target.num_layers
    attention, run = level_attention_numba.attention, decoder_run_numba._run
    with (
        patch.object(level_attention_numba, "attention", wraps=attention) as attended,
        patch.object(decoder_run_numba, "_run", wraps=run) as gone_through,
    ):
        fused.engine.generate(PROMPTS[0], drafter="none", max_new_tokens=3)
    assert gone_through.call_count == 3 * len(runs) and attended.call_count == 0
    with pytest.raises(SpecdecError, match="without a pass"):
        fused.engine.model(torch.tensor([[1, 2]]))


def test_a_hook_gets_every_layer(fused):
    """Who looks at a layer sees what it gives, and the text stays the same."""
    want = fused.plain(PROMPTS[2])[0].token_ids
    layers = fused.engine.model.model.layers
    seen = []
    hook = layers[1].register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    attention = level_attention_numba.attention
    try:
        with patch.object(level_attention_numba, "attention", wraps=attention) as attended:
            out = fused.generate([PROMPTS[2]], drafter="none")
    finally:
        hook.remove()
    assert out[0].token_ids == want and attended.call_count
    assert len(seen) >= NEW and all(not torch.equal(x, y) for x, y in seen)


class Watching:
    """Sees each layer's call, so that layers are called one by one."""

    def __init__(self):
        self.layers = []

    def see(self, call, pass_):
        self.layers.append(call.layer)


def test_an_observer_sees_every_layer(fused):
    """Who looks at the calls of a pass sees them all, and the logits stay the same."""
    target, watching = fused.engine.target, Watching()
    logits = []
    for observers in ([watching], []):
        tokens, pass_ = chain(target, observers=observers)
        logits.append(target.forward([tokens], pass_))
    assert watching.layers == list(range(target.num_layers))
    assert torch.equal(*logits)


def test_a_model_that_ends_early(fused):
    """A run is left where the model ends: the logits of its first layers, one by one."""
    short = Target(first_layers(fused.engine.model, 1), borrowed=True)
    logits = []
    for observers in ([], [Watching()]):
        tokens, pass_ = chain(short, observers=observers)
        logits.append(short.forward([tokens], pass_))
    assert pass_.layers == 1
    assert torch.equal(*logits)


@pytest.mark.parametrize(
    "name", ["quest", "triforce-chunks", "snapkv", "streaming", "tidal", "full"]
)
@torch.inference_mode()
def test_views_that_know_their_reads(fused, name):
    """Layers in one call give the bits of layers one by one, whatever a view chooses, and when."""
    target, tokens = fused.engine.target, [i * i % 37 for i in range(130)]
    options = {"budget": 40, "sink": 3, "recent": 4}
    row = Row(0, 0, tokens[:100], 100, 130, Sampler([], False, Noise(0)), 100)
    base = CachedModel(target, FullView(), [row], recorder=QueryRecorder(window=8))
    view = VIEWS[name].method(options).view(target)
    models = [CachedModel(target, view, [row], base=base) for _ in range(2)]
    run, calls = decoder_run_numba._run, []
    for turn in range(12):
        tree = TokenTree.chain(row.tokens[-1], tokens[: turn % 3])
        with patch.object(decoder_run_numba, "_run", wraps=run) as gone_through:
            (ours,) = models[0].forward([row], [tree])
        calls.append(gone_through.call_count)
        with patch.object(FusedRun, "through", lambda *_: None):
            (one_by_one,) = models[1].forward([row], [tree])
        assert torch.equal(ours, one_by_one)
        if turn % 2:  # else the same text is drafted for once more
            row.tokens.append(tokens[100 + turn])
            row.num_final = len(row.tokens)
    runs = len({id(forward.run) for forward in fused.engine.packing.forwards.values()})
    if name == "tidal":  # its anchor's queries choose: the layers with a choice go one by one
        assert set(calls) == {runs - 1}
    else:  # the first pass chooses, where the prompt's queries did not
        assert min(calls[1:]) >= runs
    assert models[0].reads(0) == models[1].reads(0)


@crossed(together=1, indirect=["fused"], method=METHODS, fused=MODELS)
def test_every_method_reads_what_it_reads_layer_by_layer(fused, method):
    """The logits of all passes, target's and drafts', in every bit: ragged rows, chains, trees."""
    prompts = [[(7 * i * i + i) % 37 for i in range(n)] for n in (110, 95, 5)]
    options = {**smallest(method, fused.engine), "drafter": method, "max_new_tokens": 6}
    found = []
    for through in (FusedRun.through, lambda *_: None):
        with patch.object(FusedRun, "through", through), logits_of_passes() as seen:
            fused.engine.generate(prompts, **options)
            fused.engine.generate(prompts[0], **options, **as_a_tree(method))
        found.append(seen)
    for together, one_by_one in zip(*found, strict=True):
        assert torch.equal(together, one_by_one)


@pytest.mark.parametrize("mode", MODES)
def test_plain_decoding_is_that_of_transformers(fused, mode):
    """Step by step against the stock model, so that the reference of this file is right itself."""
    mode = MODES[mode]
    for prompt in PROMPTS:
        (g,) = fused.plain(prompt, **mode)
        for place, token in enumerate(g.token_ids):
            assert fused.is_tie([*prompt, *g.token_ids[:place]], [token], mode, prompt, 0)


@pytest.mark.parametrize("drafter", ["ngram", "model-tree", "streaming", "quest", "triforce"])
@pytest.mark.parametrize("fused", ["llama", "gemma3"], indirect=True)
def test_same_text_out_of_tiers(fused, drafter):
    """Older keys and values on disk and behind a link: fetched chunks, and pages gathered there."""
    known = {"quest": {"drafter": "quest"}, "triforce": {"drafter": "triforce", "min_ngram": 1}}
    options = dict(DRAFTERS[drafter] if drafter in DRAFTERS else known[drafter])
    if drafter in ("streaming", *known):
        options |= {"budget": 36, "sink": 4, "recent": 8}
    want = [fused.plain(prompt) for prompt in PROMPTS]  # before anything is tiered
    assert all(want)
    target = fused.engine.target
    tiers = [("disk", "host")[layer % 2] for layer in range(target.num_layers)]
    sizes = Sizes(window=5, block=3, room=1024, staging_bytes=900)
    with patch.object(target, "kv_memory", KVMemory(tiers, link=1e10, sizes=sizes)):
        fused.compare(PROMPTS, fused.generate(PROMPTS, **options), {})


@crossed(together=1, indirect=["fused"], drafter=DRAFTERS, mode=MODES, fused=MODELS)
def test_same_text(fused, drafter, mode):
    """One ragged batch, and one row alone."""
    kwargs = {**DRAFTERS[drafter], **MODES[mode]}
    fused.compare(PROMPTS, fused.generate(PROMPTS, **kwargs), MODES[mode])
    fused.compare(PROMPTS[2:3], fused.generate(PROMPTS[2:3], **kwargs), MODES[mode])


@pytest.mark.parametrize("drafter", ["ngram", "model", "quest", "RandomTrees"])
def test_forked_rows(fused, drafter):
    """Samples that share a prompt read it together."""
    kwargs = {**DRAFTERS[drafter], **MODES["coupled"], "num_return_sequences": 3}
    out = fused.generate(PROMPTS[2:], **kwargs)
    fused.compare(PROMPTS[2:], out, MODES["coupled"])


@pytest.mark.parametrize("weights", [None, "int8"])
@pytest.mark.parametrize("fused", ["llama", "gemma3"], indirect=True)
def test_saved_documents(fused, tmp_path, weights):
    """Read apart, and some of it again: who drafts from that is right mostly, and text is exact."""
    documents, question = [PROMPTS[3], PROMPTS[2], PROMPTS[3][::-1]], PROMPTS[0]
    folders = [tmp_path / str(number) for number in range(3)]
    for document, folder in zip(documents, folders, strict=True):
        fused.engine.save_prompt(document, folder)
    whole = [*itertools.chain(*documents), *question]
    options = {} if weights is None else {"draft_weights": weights}
    for mode in MODES.values():
        out = fused.generate(
            [question], drafter="cacheblend", saved_documents=folders, **options, **mode
        )
        fused.compare([whole], out, mode)
        assert sum(out[0].stats.accepted) > 0


@pytest.mark.parametrize("wrong_every", [0, 3])
def test_drafts_of_the_true_text(fused, wrong_every):
    texts = [fused.plain(p)[0].token_ids for p in PROMPTS]
    out = fused.generate(PROMPTS, drafter=hostile.replay(texts, wrong_every))
    fused.compare(PROMPTS, out, {})
    if wrong_every == 0:
        assert sum(g.stats.num_spec_steps == 1 for g in out) >= len(PROMPTS) - 1


def test_low_precision_drafts():
    """Eight bits mostly draft what the target says; what cannot be given is refused."""
    fused = Fused("llama")
    out = fused.generate(PROMPTS[2], drafter="quest", draft_weights="int8", num_draft_tokens=3)
    assert out.stats.draft_acceptance_rate > 0.6
    layer = fused.engine.target.packing.fused[0]
    assert layer.quantised(4).inputs.q.weight.format == "int4affine"
    assert layer.inputs.q.weight.format == "float32"
    with pytest.raises(InvalidArgument, match="draft_weights='int2': give"):
        fused.generate(PROMPTS[0], drafter="quest", draft_weights="int2")
    with pytest.raises(InvalidArgument, match="draft_weights"):
        fused.generate(PROMPTS[0], drafter="ngram", draft_weights="int8")
    double = Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))
    with pytest.raises(UnsupportedModel, match="needs a float32 model"):
        double.generate(PROMPTS[0], drafter="quest", draft_weights="int8")
