"""Passes that ask the host for nothing, and their graphs: the same bits as without them.

On a CPU `tape.Tape` stands for CUDA's capture; where there is a GPU, both run.
"""

from __future__ import annotations

import random
from dataclasses import replace

import hostile
import models
import pytest
import tape
import torch
from test_target import Oracle, make_row, random_tree, take_up

from specdec import Engine
from specdec.bench import step_profile
from specdec.cached_model import CachedModel
from specdec.generation import GenerationStream
from specdec.graphs import CudaCapture, Graphs
from specdec.pass_inputs import PassShape, padded
from specdec.recorder import QueryRecorder
from specdec.sparse.chunk_means import ChunkMeans
from specdec.sparse.exact_mass import ExactMass
from specdec.sparse.label_channels import LabelChannels
from specdec.sparse.page_bounds import PageBounds
from specdec.sparse.recency import Recency
from specdec.sparse.sharing import Sharing
from specdec.sparse.view import SparseView
from specdec.store import Level
from specdec.target import Target
from specdec.tree import TokenTree
from specdec.view import FullView

NEVER = 1 << 30
ON_GPU = pytest.mark.gpu


def on(*cases):
    """Cases that start with a device; those on a GPU are marked."""
    return [pytest.param(*case, marks=ON_GPU if case[0] == "cuda" else ()) for case in cases]


@pytest.fixture(autouse=True)
def _lengths_apart(monkeypatch):
    """The device's lengths are other memory than the host's, as on a GPU."""
    known = Level.lengths_on
    elsewhere = torch.device("cpu", 0)
    monkeypatch.setattr(Level, "lengths_on", lambda level, device: known(level, elsewhere))


def capture_for(model):
    return tape.Tape(model) if model.device.type == "cpu" else CudaCapture(model.device)


def graphed(model, after=0, bound=48):
    target = Target(model)
    target.graphs = Graphs(capture_for(model), bound, after)
    return target


def poison(cached, rows):
    """What lies behind what is committed and staged may be anything."""
    staged = {row.index: len(cached.held[row.index].slots) for row in rows}
    for level in cached.store.levels[cached.store.num_shared :]:
        for buffer in (*level.k, *level.v):
            if buffer is not None:
                for row, length in enumerate(level.length.tolist()):
                    buffer[row, :, length + staged.get(row, 0) :] = torch.nan


def same_passes(models_, rounds=4):
    """Trees, growth and rows that drop out, the same for several models; logits are compared."""
    rng = random.Random(3)
    prompts = [[1, 2, 3, 4, 5, 6, 7, 8, 9], [7, 8]]
    everyone = [[make_row(i, p) for i, p in enumerate(prompts)] for _ in models_]
    cached = [
        CachedModel(t, FullView(), rows, recorder=QueryRecorder(verified=True))
        for t, rows in zip(models_, everyone)
    ]
    for turn in range(rounds * 2):
        active = [rows if turn % 4 < 3 else rows[1:] for rows in everyone]
        trees = [random_tree(rng, row.tokens[-1], 1 + turn % 3 + row.index) for row in active[0]]
        for model, rows in zip(cached, everyone):
            poison(model, rows)
        first = [model.forward(rows, trees) for model, rows in zip(cached, active)]
        grown = [[rng.randrange(len(tree))] for tree in trees]
        tokens = [[rng.randrange(models.VOCAB)] for _ in trees]
        noted = [{k: q.clone() for k, q in x.recorder.passes.items()} for x in cached]
        assert noted[0].keys() == noted[1].keys()
        assert all(torch.equal(q, noted[1][k]) for k, q in noted[0].items()), "queries kept"
        second = []
        for model, rows in zip(cached, active):
            parents = [
                [model.root_slot(row) + node for node in nodes] for row, nodes in zip(rows, grown)
            ]
            second.append(model.grow(rows, tokens, parents)[1])
        yield active[0], trees, first, grown, tokens, second
        nodes = [rng.randrange(len(tree)) for tree in trees]
        bonus = [rng.randrange(models.VOCAB) for _ in trees]
        for rows in active:
            for row, tree, node, token in zip(rows, trees, nodes, bonus):
                take_up(row, tree, node, token)


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
            torch.testing.assert_close(want[0], oracle.after(text), rtol=2e-4, atol=2e-4)
    graphs = replayed.graphs
    assert not graphs.refused and graphs.replays == 16
    assert graphs.captures == len(graphs) < 12, "shapes that come again have a graph"
    assert not plain.graphs.replays and not plain.graphs.captures


class AsksLength(FullView):
    def attend(self, pass_, call):
        if pass_.inputs is not None:
            pass_.store.levels[-1].lengths_on(call.q.device).max().item()
        return super().attend(pass_, call)


class LooksAtHostLengths(FullView):
    def attend(self, pass_, call):
        if pass_.inputs is not None:
            return super().attend(pass_, call) + 0 * pass_.store.levels[-1].length.sum()
        return super().attend(pass_, call)


class MakesInput(FullView):
    def attend(self, pass_, call):
        out = super().attend(pass_, call)
        return out * torch.tensor(1.0) if pass_.inputs is not None else out


class ListsRows(FullView):
    def attend(self, pass_, call):
        if pass_.inputs is not None:
            assert pass_.inputs.row_maps.tolist()
        return super().attend(pass_, call)


class SkipsEmpty(FullView):
    def attend(self, pass_, call):
        if pass_.inputs is not None and bool(pass_.inputs.positions.any()):
            return super().attend(pass_, call)
        return FullView.attend(self, pass_, call)


class SelectsByMask(FullView):
    def attend(self, pass_, call):
        if pass_.inputs is not None:
            pass_.inputs.positions[pass_.inputs.positions >= 0]
        return super().attend(pass_, call)


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


class BakesNumber(FullView):
    """Takes for a constant what changes from pass to pass: nothing that capturing could see."""

    turn = 0

    def attend(self, pass_, call):
        return super().attend(pass_, call) * (1 + self.turn)


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
@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt-oss"])
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


@pytest.mark.parametrize(
    "scorer", [PageBounds(4), ChunkMeans(4), Recency(), LabelChannels(4)], ids=lambda x: x.name
)
@pytest.mark.parametrize(
    ("device", "name", "dtype"),
    on(
        ("cpu", "llama", torch.float64), ("cpu", "llama", torch.float32),
        ("cpu", "gemma3", torch.float64), ("cuda", "llama", torch.float32),
        ("cuda", "gemma3", torch.bfloat16),
    ),
    ids=str,
)  # fmt: skip
@torch.inference_mode()
def test_views_that_choose(name, scorer, dtype, device):
    """Choices stay on the device: the same bits by graphs, and everything if that is the budget."""
    model = models.build(name, dtype=dtype).to(device)
    atol = 0.5 if dtype == torch.bfloat16 else 1e-4
    for budget, refresh in ((12, "pass"), (12, "round"), (1000, "pass")):
        view = SparseView("view", scorer, Sharing(dense=(0,)), budget, 4, 4, refresh=refresh)
        found = []
        for after in (NEVER, 0):
            target, rng = graphed(model, after), random.Random(1)
            rows = [
                make_row(i, [(7 * i + j * j) % 40 for j in range(n)]) for i, n in ((0, 41), (1, 6))
            ]
            base = CachedModel(target, FullView(), rows)
            full = CachedModel(target, FullView(), rows, base=base)
            draft = CachedModel(target, view, rows, base=base)
            for _ in range(4):
                trees = [random_tree(rng, row.tokens[-1], 2) for row in rows]
                for cached in (draft, full):
                    found += cached.forward(rows, trees)
                    roots = [cached.root_slot(row) for row in rows]
                    found += list(
                        cached.grow(
                            rows, [[3], [4, 5]], [[r] for r in roots[:1]] + [[roots[1]] * 2]
                        )[1][:, :1]
                    )
                base.forward(rows, trees)
                for row, tree in zip(rows, trees):
                    take_up(row, tree, 1, rng.randrange(models.VOCAB))
            assert not target.graphs.refused and target.graphs.replays == (0 if after else 20)
            reads = draft.reads(0)["view"]
            assert reads.passes == 8 and (max(reads.tokens) <= budget or budget == 1000)
            token = reads.full_bytes[0] // reads.context[0]
            assert token and reads.bytes == [token * read for read in reads.tokens]
            assert reads.full_passes == (8 if budget == 1000 else 0)
        half = len(found) // 2
        assert all(torch.equal(a, b) for a, b in zip(found[:half], found[half:], strict=True))
        for i in range(0, half, 8):
            same = all(
                torch.allclose(a, b, atol=atol)
                for a, b in zip(found[i : i + 4], found[i + 4 : i + 8])
            )
            assert same or budget < 1000
            assert not same or budget == 1000 or dtype == torch.bfloat16


TIDAL = SparseView(
    "tidal", ExactMass(1), Sharing((0,), (1,), exact_anchors=True), 12, 2, 2, refresh="pass"
)
SNAPKV = replace(TIDAL, name="snapkv", sharing=Sharing(), votes="mean")
QUEST = SparseView("quest", PageBounds(4), Sharing(), 16, 4, 4)
AS_THE_HOST = {  # name -> (view, placed ones of 12 draft passes: the others choose on the host)
    "tidal": (TIDAL, 12),
    "tidal-round": (replace(TIDAL, refresh="round"), 12),
    "tidal-all-heads": (replace(TIDAL, sharing=replace(TIDAL.sharing, all_heads=True)), 12),
    "oracle": (replace(TIDAL, name="oracle", sharing=Sharing((0,)), votes="mean"), 12),
    "snapkv": (replace(SNAPKV, queries="prompt", refresh="prompt", pool=5), 10),
    "verified": (replace(SNAPKV, scorer=ExactMass(4), queries="verified", refresh="round"), 6),
    "quest-every-2-rounds": (replace(QUEST, refresh=2), 9),
    "quest-falling": (replace(QUEST, refresh="falling"), 9),
    "quest-prompt-pass": (replace(QUEST, queries="prompt", refresh="pass"), 2),
}


def drafted(target, view, rounds=6, lengths=(41, 9), grown=(3, 4)):
    """Logits of a draft's passes, two for each round of texts that grow, and its model.

    The second text is shorter than the budget at first; the first one misses a round.
    """
    rng, found = random.Random(1), []
    both = [make_row(i, [(7 * i + j * j) % 40 for j in range(n)]) for i, n in enumerate(lengths)]
    recorder = QueryRecorder(view.wants.prompt_queries, view.wants.verified)
    base = CachedModel(target, FullView(), both, recorder=recorder)
    draft = CachedModel(target, view, both, base=base)
    for turn in range(rounds):
        rows = both[1:] if turn == 3 else both
        draft.state["falling", 0] = turn == 4
        trees = [random_tree(rng, row.tokens[-1], 4) for row in rows]
        found += draft.forward(rows, [TokenTree.root(row.tokens[-1]) for row in rows])
        roots = [draft.root_slot(row) for row in rows]
        parents = [[root] * len(grown) for root in roots]
        found += list(draft.grow(rows, [list(grown)] * len(rows), parents)[1])
        base.forward(rows, trees)
        for row, tree in zip(rows, trees):
            take_up(row, tree, rng.randrange(4), rng.randrange(models.VOCAB))
    return found, draft


@pytest.mark.parametrize(("view", "placed_passes"), AS_THE_HOST.values(), ids=AS_THE_HOST)
@pytest.mark.parametrize("name", ["llama", "llama-3-groups"])
@torch.inference_mode()
def test_a_placed_pass_chooses_what_the_host_would(name, view, placed_passes):
    """In a layer of its own and for those that reuse it, row by row, as the text grows."""
    model = models.build(name, num_hidden_layers=4)
    targets = Target(model), graphed(model, after=NEVER), graphed(model)
    (host, eager), (passes, placed), (replays, _) = (drafted(t, view) for t in targets)
    assert "placed" not in eager.state and "placed" in placed.state
    for want, ours, replayed in zip(host, passes, replays, strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-5)
        assert torch.equal(ours, replayed)
    assert not targets[2].graphs.refused and targets[2].graphs.replays == 6 + placed_passes
    assert [eager.reads(i) for i in (0, 1)] == [placed.reads(i) for i in (0, 1)]


INDICES = {
    "bounds": PageBounds(4), "means": ChunkMeans(4), "recency": Recency(),
    "labels": LabelChannels(4), "labels-in-4-bits": LabelChannels(5, bits=4),
}  # fmt: skip


@pytest.mark.parametrize("refresh", ["pass", "round"])
@pytest.mark.parametrize("scorer", INDICES.values(), ids=INDICES)
@torch.inference_mode()
def test_a_lone_query_chooses_by_an_index_what_the_host_would(scorer, refresh):
    """Of one query the highest score is the highest softmax; channels are those of each row."""
    model = models.build("llama-mha", num_hidden_layers=3)
    view = SparseView("view", scorer, Sharing((0,)), 12, 4, 4, refresh=refresh)
    how = {"lengths": (41, 30), "grown": (3,)}
    targets = Target(model), graphed(model, after=NEVER), graphed(model)
    (host, eager), (passes, placed), (replays, _) = (drafted(t, view, **how) for t in targets)
    for want, ours, replayed in zip(host, passes, replays, strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-5)
        assert torch.equal(ours, replayed)
    assert targets[2].graphs.replays == 6 + 12 and not targets[2].graphs.refused
    assert [eager.reads(i) for i in (0, 1)] == [placed.reads(i) for i in (0, 1)]


@torch.inference_mode()
def test_the_best_pages_are_chosen_and_taken_back():
    """The index follows the text, forwards and backwards; pages are those of the highest bound."""
    target, scorer = graphed(models.build("llama")), PageBounds(4)
    view = SparseView("view", scorer, Sharing(), 12, 4, 4, refresh="pass")
    row = make_row(0, [(j * j) % 40 for j in range(42)])
    base = CachedModel(target, FullView(), [row])
    draft = CachedModel(target, view, [row], base=base)
    for length in (42, 47, 33, 32, 33, 45):
        row.tokens[:] = [(j * j) % 40 for j in range(length)]
        row.stable = length
        draft.held[0].base = -1
        base.held[0].sure = 0
        base.forward([row], [TokenTree.root(row.tokens[-1])])
        draft.forward([row], [TokenTree.root(row.tokens[-1])])
        level, choices = base.store.levels[0], draft.state["placed"]
        full = (length - 1) // 4
        assert int(level.length[0]) == length - 1
        assert choices.index.covered.tolist() == choices.index.covered_on.tolist() == [4 * full]
        for layer in (0, 1):
            keys = level.k[layer][0, :, : 4 * full].unflatten(1, (full, 4))
            bounds = choices.index.summaries[layer][0][0, :, :full]
            assert torch.equal(bounds, torch.stack(keys.aminmax(dim=2), dim=2))
            pages = choices.pages[layer][0]
            tail = length - 1 - 4 * full
            assert (pages >= 0).sum(-1).tolist() == [(12 - tail) // 4] * 2
            assert (pages[:, 0] == 0).all() and (pages[:, 1] == full - 1).all()


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
    round_ = GenerationStream._round

    def watched(stream, rows):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return round_(stream, rows)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(GenerationStream, "_round", watched)
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
    assert [x["ops"].keys() for x in document["passes"]] == [{"without_graphs"}] * 3
    assert all(min(x["total"], x["ops"]["without_graphs"]) > 0 for x in document["passes"])
    assert engine.target.graphs.replays > 15 and not engine.target.graphs.refused


def test_widths_and_shapes():
    assert [padded(n) for n in (1, 2, 3, 5, 33, 64, 65)] == [1, 2, 4, 8, 64, 64, 65]
    assert PassShape.of(2, 8, 0, 1) == PassShape(2, 8, 8, 1)
    assert PassShape.of(2, 8, 3, 1).slots == PassShape.of(2, 8, 56, 1).slots == 64
    assert PassShape.of(2, 8, 57, 1).words == 2
