"""Sparse views in passes that ask the host for nothing: what they choose, and their graphs."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from specdec.decoding.cached_model import CachedModel
from specdec.forward.full_view import FullView
from specdec.forward.query_recorder import QueryRecorder
from specdec.model.target import Target
from specdec.sampling.tree import TokenTree
from specdec.sparse.layer_sharing import Sharing
from specdec.sparse.scorers.chunk_means import ChunkMeans
from specdec.sparse.scorers.exact_mass import ExactMass
from specdec.sparse.scorers.label_channels import LabelChannels
from specdec.sparse.scorers.page_bounds import PageBounds
from specdec.sparse.scorers.recency import Recency
from specdec.sparse.view import SparseView

from helpers import models
from helpers.graphed import NEVER, graphed, lengths_apart, on
from helpers.matrix import crossed
from helpers.passes import make_row, random_tree, take_up


@pytest.fixture(autouse=True)
def _lengths_apart(monkeypatch):
    lengths_apart(monkeypatch)


SCORERS = [PageBounds(4), ChunkMeans(4), Recency(), LabelChannels(4)]
PLACES = [("cpu", "llama", torch.float64), ("cpu", "llama", torch.float32),
          ("cpu", "gemma3", torch.float64)]  # fmt: skip
ON_GPUS = [("cuda", "llama", torch.float32), ("cuda", "gemma3", torch.bfloat16)]
# Scorer and place do not meet in the code: by default each is tried with one of the others.
CHOOSING = [
    pytest.param(*place, scorer, marks=pytest.mark.slow if i % 3 != j else ())
    for i, scorer in enumerate(SCORERS)
    for j, place in enumerate(PLACES)
] + on(*((*place, scorer) for scorer in SCORERS for place in ON_GPUS))


@pytest.mark.parametrize(
    ("device", "name", "dtype", "scorer"), CHOOSING, ids=lambda x: getattr(x, "name", str(x))
)
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
            for _ in range(3):
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
            assert not target.graphs.refused and target.graphs.replays == (0 if after else 15)
            reads = draft.reads(0)["view"]
            assert reads.passes == 6 and max(reads.tokens) <= budget
            assert min(reads.context) > 12
            layers = target.full_layers
            token = reads.full_bytes[0] // (reads.context[0] * len(layers))
            parts = len(set(layers) - {0})
            for read in reads.each:
                whole = read.context * (len(layers) - parts)
                assert token and read.bytes == token * (parts * read.tokens + whole)
            assert reads.full_passes == (6 if budget == 1000 else 0)
        half = len(found) // 2
        assert all(torch.equal(a, b) for a, b in zip(found[:half], found[half:], strict=True))
        for i in range(0, half, 8):
            ours, full = found[i : i + 4], found[i + 4 : i + 8]
            same = [torch.allclose(a, b, atol=atol) for a, b in zip(ours, full, strict=True)]
            if budget == 1000:
                assert all(same)
            elif dtype == torch.bfloat16:  # whose tolerance hides what is left out, but not all
                assert not all(map(torch.equal, ours, full))
            else:
                assert not all(same)


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
    recorder = QueryRecorder(view.needs.prompt_queries, view.needs.verified)
    base = CachedModel(target, FullView(), both, recorder=recorder)
    draft = CachedModel(target, view, both, base=base)
    for turn in range(rounds):
        rows = both[1:] if turn == 3 else both
        draft.state.of(0).is_falling = turn == 4
        trees = [random_tree(rng, row.tokens[-1], 4) for row in rows]
        found += draft.forward(rows, [TokenTree.root(row.tokens[-1]) for row in rows])
        roots = [draft.root_slot(row) for row in rows]
        parents = [[root] * len(grown) for root in roots]
        found += list(draft.grow(rows, [list(grown)] * len(rows), parents)[1])
        base.forward(rows, trees)
        for row, tree in zip(rows, trees):
            take_up(row, tree, rng.randrange(4), rng.randrange(models.VOCAB))
    return found, draft


def attended(draft, row):
    """What passes read for a row, but to choose: a static pass does not count that."""
    return [one._replace(chosen_bytes=0) for x in draft.reads(row).values() for one in x.each]


@crossed(together=1, view=AS_THE_HOST, name=["llama", "llama-3-groups"])
@torch.inference_mode()
def test_a_placed_pass_chooses_what_the_host_would(name, view):
    """In a layer of its own and for those that reuse it, row by row, as the text grows."""
    view, placed_passes = AS_THE_HOST[view]
    model = models.build(name, num_hidden_layers=4)
    targets = Target(model), graphed(model, after=NEVER), graphed(model)
    (host, eager), (passes, placed), (replays, _) = (drafted(t, view) for t in targets)
    assert eager.state.static is None and placed.state.static is not None
    for want, ours, replayed in zip(host, passes, replays, strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-5)
        assert torch.equal(ours, replayed)
    assert not targets[2].graphs.refused and targets[2].graphs.replays == 6 + placed_passes
    assert [attended(eager, i) for i in (0, 1)] == [attended(placed, i) for i in (0, 1)]


INDICES = {
    "bounds": PageBounds(4), "means": ChunkMeans(4), "recency": Recency(),
    "labels": LabelChannels(4), "labels-in-4-bits": LabelChannels(5, bits=4),
}  # fmt: skip


@crossed(together=1, scorer=INDICES, refresh=["pass", "round"])
@torch.inference_mode()
def test_a_lone_query_chooses_by_an_index_what_the_host_would(scorer, refresh):
    """Of one query the highest score is the highest softmax; channels are those of each row."""
    scorer = INDICES[scorer]
    model = models.build("llama-mha", num_hidden_layers=3)
    view = SparseView("view", scorer, Sharing((0,)), 12, 4, 4, refresh=refresh)
    how = {"lengths": (41, 30), "grown": (3,)}
    targets = Target(model), graphed(model, after=NEVER), graphed(model)
    (host, eager), (passes, placed), (replays, _) = (drafted(t, view, **how) for t in targets)
    for want, ours, replayed in zip(host, passes, replays, strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-5)
        assert torch.equal(ours, replayed)
    assert targets[2].graphs.replays == 6 + 12 and not targets[2].graphs.refused
    assert [attended(eager, i) for i in (0, 1)] == [attended(placed, i) for i in (0, 1)]


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
        row.num_final = length
        draft.text.held[0].base = -1
        base.text.held[0].num_final = 0
        base.forward([row], [TokenTree.root(row.tokens[-1])])
        draft.forward([row], [TokenTree.root(row.tokens[-1])])
        level, choices = base.store.levels[0], draft.state.static
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
