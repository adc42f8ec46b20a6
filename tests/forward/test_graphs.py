"""Passes that ask the host for nothing, and their graphs: the same bits as without them.

On a CPU `tape.Tape` stands for CUDA's capture; where there is a GPU, both run.
"""

from __future__ import annotations

import random

import pytest
import torch

from specdec import Engine
from specdec.bench import step_profile
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.rounds import Rounds
from specdec.forward import cuda_graphs as graphs_module
from specdec.forward.cuda_graphs import CudaCapture, Graphs
from specdec.forward.full_view import FullView
from specdec.forward.plan import WHOLE, LayerPlan, StaticPlan
from specdec.forward.static_inputs import PassShape, padded

from helpers import hostile, models
from helpers.graphed import NEVER, ON_GPU, capture_for, graphed, lengths_apart, on
from helpers.matrix import crossed
from helpers.passes import Oracle, make_row, random_tree, same_passes, take_up


@pytest.fixture(autouse=True)
def _lengths_apart(monkeypatch):
    lengths_apart(monkeypatch)


@pytest.mark.parametrize(
    ("device", "dtype"),
    on(
        ("cpu", torch.float64), ("cpu", torch.float32),
        ("cuda", torch.float32), ("cuda", torch.bfloat16),
    ),
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "qwen2", "phi3"])
@torch.inference_mode()
def test_a_graph_gives_the_same_bits(name, device, dtype):
    """As the same pass without a graph, and on a CPU the law of transformers' own forward."""
    model = models.build(name, dtype=dtype).to(device)
    oracle = Oracle(model)
    plain, replayed = graphed(model, after=NEVER), graphed(model)
    for rows, trees, (a, b), grown, tokens, (c, d) in same_passes([plain, replayed]):
        assert all(map(torch.equal, a, b)) and torch.equal(c, d)
        if device == "cuda":
            assert all(x.isfinite().all() for x in (*a, c))
            continue
        for row, tree, without in zip(rows, trees, a):
            oracle.check(row, tree, without)
        for row, tree, (node,), (token,), want in zip(rows, trees, grown, tokens, c):
            text = row.tokens + tree.path_tokens(node) + [token]
            oracle.close(want[0], text)
    graphs = replayed.graphs
    assert not graphs.refused and graphs.replays == 16
    assert graphs.captures == len(graphs) < 12, "shapes that come again have a graph"
    assert not plain.graphs.replays and not plain.graphs.captures


class Mutant(FullView):
    """Does something in a static pass that a graph cannot do again."""

    def plan(self, pass_, layer, window):
        if pass_.inputs is not None:
            self.spoil(pass_)
        return super().plan(pass_, layer, window)


class AsksLength(Mutant):
    def spoil(self, pass_):
        pass_.store.levels[-1].lengths_on(pass_.positions.device).max().item()


class LooksAtHostLengths(Mutant):
    def spoil(self, pass_):
        pass_.inputs.positions + pass_.store.levels[-1].length.sum()


class MakesInput(Mutant):
    def spoil(self, pass_):
        pass_.inputs.positions * torch.tensor(1.0)


class ListsRows(Mutant):
    def spoil(self, pass_):
        assert pass_.inputs.row_maps.tolist()


class SkipsEmpty(Mutant):
    def spoil(self, pass_):
        assert bool(pass_.inputs.positions.any())


class SelectsByMask(Mutant):
    def spoil(self, pass_):
        pass_.inputs.positions[pass_.inputs.positions >= 0]


@pytest.mark.parametrize(
    "mutant", [AsksLength, LooksAtHostLengths, MakesInput, ListsRows, SkipsEmpty, SelectsByMask]
)
@torch.inference_mode()
def test_a_pass_that_asks_the_host_is_not_captured(mutant):
    """It runs as it is, and the reason is kept."""
    model = models.build("llama")
    oracle, target = Oracle(model), graphed(model)
    row = make_row(0, [1, 2, 3, 4])
    cached = CachedModel(target, mutant(), [row])
    tree = random_tree(random.Random(0), 4, 3)
    for _ in range(3):
        oracle.check(row, tree, cached.forward([row], [tree])[0])
    assert list(target.graphs.refused) == ["full"] and not len(target.graphs)


class Short:
    """A capture for which memory is short at first."""

    nbytes = 0

    def __init__(self, times):
        self.times, self.tried = times, 0

    def __call__(self, run):
        self.tried += 1
        if self.tried <= self.times:
            raise torch.OutOfMemoryError("CUDA out of memory")
        logits, left = run()
        return (logits, left), lambda: logits.copy_(run()[0])


def test_a_shortage_passes(monkeypatch, caplog):
    """What was refused is tried again, each time after twice as many passes."""
    monkeypatch.setattr(graphs_module, "PATIENCE", 4)
    engine = Engine(models.build("llama"))
    want = engine.generate([1, 2, 3], drafter="none", max_new_tokens=60).token_ids
    for times, tries in ((1, 2), (3, 4), (1000, 4)):
        caplog.clear()
        capture = Short(times)
        engine.target.graphs = graphs = Graphs(capture, after=0)
        got = engine.generate([1, 2, 3], drafter="none", max_new_tokens=60).token_ids
        assert got == want and capture.tried == tries
        assert bool(graphs.replays) == bool(graphs.captures) == (times < 1000)
        assert bool(graphs.refused) == (times == 1000)
        assert len([x for x in caplog.records if "without CUDA graphs" in x.message]) == 1


@pytest.mark.parametrize("change", ["hook", "pre-hook", "patch", "weight", "new weight", "part"])
def test_no_graph_of_an_older_model(change):
    """And none past a hook or a patch, whoever put it there, before the graph or after it."""

    def apply(model, seen):
        mlp, note = model.model.layers[1].mlp, lambda *_: seen.append(1)
        forward = mlp.forward
        if change == "hook":
            mlp.register_forward_hook(note)
        elif change == "pre-hook":
            mlp.register_forward_pre_hook(note)
        elif change == "patch":
            mlp.forward = lambda x: (note(), forward(x))[1]
        elif change == "weight":
            mlp.up_proj.weight.data = mlp.up_proj.weight.data * -1
        elif change == "new weight":
            mlp.up_proj.weight = torch.nn.Parameter(mlp.up_proj.weight.detach() * -1)
        else:
            mlp.act_fn = torch.nn.Tanh()

    def text(engine):
        return engine.generate([1, 2, 3], drafter="none", max_new_tokens=12).token_ids

    calls = change in ("hook", "pre-hook", "patch")
    engine, seen = Engine(models.build("llama")), []
    engine.target.graphs = graphs = Graphs(Short(0), after=0)
    before = text(engine)
    done = graphs.replays
    assert done and len(graphs)
    apply(engine.model, seen)
    after = text(engine)
    assert (after == before) == calls
    assert len(seen) == (13 if calls else 0), "every pass, the prompt's included"
    assert (graphs.replays == done) == calls
    fresh = models.build("llama")
    apply(fresh, [])
    assert text(Engine(fresh)) == after


class BakesNumber(FullView):
    """Takes for a constant what changes from pass to pass: nothing that capturing could see."""

    turn = 0

    def plan(self, pass_, layer, window):
        if pass_.inputs is None:
            return WHOLE
        return LayerPlan(static=StaticPlan(1, None, None, reads_all=True, select=self.spoil))

    def spoil(self, call, whole):
        whole[0].mul_(1 + self.turn)


@torch.inference_mode()
def test_a_number_baked_in_shows_in_the_bits():
    """What no capture can see, comparing replays with passes does: it is not blind to changes."""
    model, logits = models.build("llama"), []
    for after in (NEVER, 0):
        target, row, view = graphed(model, after), make_row(0, [1, 2, 3, 4]), BakesNumber()
        cached = CachedModel(target, view, [row])
        for view.turn in range(3):
            tree = random_tree(random.Random(0), row.tokens[-1], 2)
            logits.append(cached.forward([row], [tree])[0])
            take_up(row, tree, 0, 7)
        assert not target.graphs.refused
    assert torch.equal(logits[0], logits[3]) and not torch.equal(logits[2], logits[5])


DRAFTERS = {
    "none": {"drafter": "none"},
    "ngram": {"drafter": "ngram", "min_ngram": 1, "num_draft_tokens": 5, "draft_width": 3},
    "model-tree": {"drafter": "model", "draft_width": 3},
    "cascade": {"drafter": "cascade"},
    "verified": {"drafter": "verified", "budget": 20, "sink": 2, "recent": 2},
    "snapkv": {"drafter": "snapkv", "budget": 12, "sink": 2, "recent": 2, "draft_width": 2},
    "quest": {"drafter": "quest", "budget": 20, "sink": 2, "recent": 2},
    "chunks": {"drafter": "triforce-chunks", "budget": 16, "draft_width": 2},
    "streaming": {"drafter": "streaming", "budget": 8, "draft_layers": 1},
    "labels": {"drafter": "double-sparsity", "budget": 12, "sink": 2, "recent": 2},
    "tidal": {"drafter": "tidal", "budget": 12, "sink": 2, "recent": 2, "dense": ()},
    "oracle": {"drafter": "oracle", "budget": 12, "sink": 2, "recent": 2, "draft_width": 2},
}


@pytest.mark.parametrize("device", on(("cpu",), ("cuda",)))
@crossed(together=1, drafter=DRAFTERS, name=["llama", "gemma3", "gpt-oss"])
def test_the_same_text(name, drafter, device):
    """Prompts and samples in one batch, greedy and with a seed, rows that end early."""
    model = models.build(name, dtype=torch.float64 if device == "cpu" else torch.float32).to(device)
    engine = Engine(model, hostile.tokenizer(models.VOCAB))
    options = dict(DRAFTERS[drafter])
    if drafter in ("model-tree", "cascade"):
        options["draft_model"] = models.disturbed(model, 0.03)
    prompts = [[1, 2, 3, 4, 5], [7], [3, 4] * 6]
    calls = [{}, {"temperature": 0.9, "seed": 3, "num_return_sequences": 2, "eos_token_id": [2, 9]}]
    engine.target.graphs = None
    want = [engine.generate(prompts, max_new_tokens=16, drafter="none", **x) for x in calls]
    engine.target.graphs = Graphs(capture_for(model), after=1)
    got = [engine.generate(prompts, max_new_tokens=16, **options, **x) for x in calls]
    for ours, plain in zip(got, want):
        assert [g.token_ids for g in _flat(ours)] == [g.token_ids for g in _flat(plain)]
    graphs = engine.target.graphs
    if name == "gpt-oss":  # its experts ask the host who has tokens
        assert graphs.refused and not graphs.replays
    else:
        assert not graphs.refused and graphs.replays > 1


def _flat(found):
    return [x for part in found for x in (part if isinstance(part, list) else [part])]


@pytest.mark.parametrize("device", on(("cpu",), ("cuda",)))
@torch.inference_mode()
def test_a_store_elsewhere_has_graphs_of_its_own_and_the_oldest_make_way(device):
    model = models.build("llama", dtype=torch.float32).to(device)
    kept = []
    target = graphed(model, bound=2)
    tree = random_tree(random.Random(0), 4, 3)
    for expected in (1, 2, 2):
        row = make_row(0, [1, 2, 3, 4])
        cached = CachedModel(target, FullView(), [row])
        kept.append(cached)  # or its memory may be the next one's, and so may its graph
        before = target.graphs.captures
        for _ in range(3):
            cached.forward([row], [tree])
        # the first pass of a store makes no buffers: reading the prompt did
        assert target.graphs.captures == before + 1 and len(target.graphs) == expected
    assert target.graphs.nbytes > 0


class LetWait(CudaCapture):
    """Making a graph waits; nothing else may."""

    def __call__(self, run):
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        try:
            return super().__call__(run)
        finally:
            torch.cuda.set_sync_debug_mode(mode)


@ON_GPU
@pytest.mark.parametrize("options", [{"drafter": "none"}, {"drafter": "ngram", "min_ngram": 1}])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "seed": 1}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_round_waits_for_its_verdict_alone(monkeypatch, options, sampling, dtype):
    """PyTorch raises where anyone else would wait for the device."""
    engine = Engine(models.build("llama", dtype=dtype).to("cuda"), hostile.tokenizer(models.VOCAB))
    engine.target.graphs = Graphs(LetWait(engine.device), after=1)
    round_ = Rounds.run

    def watched(*given):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return round_(*given)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Rounds, "run", watched)
    engine.generate([3, 4] * 6, max_new_tokens=60, **options, **sampling)
    assert engine.target.graphs.replays > 5 and not engine.target.graphs.refused


@ON_GPU
def test_the_memory_of_graphs_is_counted():
    model = models.build("llama", dtype=torch.bfloat16).to("cuda")
    engine = Engine(model, hostile.tokenizer(models.VOCAB))
    engine.generate([1, 2, 3], drafter="none", max_new_tokens=8)
    graphs = engine.target.graphs
    assert graphs.replays and 0 < graphs.nbytes < 1 << 30


@pytest.mark.parametrize("device", on(("cpu",), ("cuda",)))
def test_steps_are_timed_with_graphs_and_without(device, monkeypatch):
    monkeypatch.setattr(step_profile, "STREAM_BYTES", 1 << 20)
    dtype = torch.float64 if device == "cpu" else torch.float32  # not packed: see `Packing`
    engine = Engine(models.build("llama", dtype=dtype).to(device))
    engine.target.graphs = Graphs(capture_for(engine.model), after=1)
    text = [n * n % models.VOCAB for n in range(60)]
    document = step_profile.profile_steps(engine, text, [40], [1, 4], ["quest"], 100, repeats=5)
    assert [x["calls"].keys() for x in document["passes"]] == [{"without_graphs"}] * 3
    assert all(min(x["total"], x["calls"]["without_graphs"]) > 0 for x in document["passes"])
    assert engine.target.graphs.replays > 15 and not engine.target.graphs.refused


def test_widths_and_shapes():
    assert [padded(n) for n in (1, 2, 3, 5, 33, 64, 65)] == [1, 2, 4, 8, 64, 64, 65]
    assert PassShape.of(2, 8, 0, 1) == PassShape(2, 8, 8, 1)
    assert PassShape.of(2, 8, 3, 1).slots == PassShape.of(2, 8, 56, 1).slots == 64
    assert PassShape.of(2, 8, 57, 1).words == 2
