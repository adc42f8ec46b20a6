"""Statistics of a text's tokens: they follow it through trees, forks, crops and tiers."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec import Engine
from specdec.decoding.cached_model import CachedModel
from specdec.drafts.methods.self_draft import SelfDraftOptions
from specdec.drafts.self_draft import SelfDraft
from specdec.forward.full_view import FullView
from specdec.forward.plan import Needs
from specdec.forward.query_recorder import QueryRecorder
from specdec.method import ViewMethod
from specdec.model.target import Target
from specdec.offload.kv_memory import KVMemory, Sizes
from specdec.sparse.importances.accumulated import AccumulatedMass
from specdec.sparse.importances.base import StepScorer
from specdec.sparse.importances.ledger import Ledger
from specdec.sparse.importances.recurrence import Recurrence
from specdec.sparse.importances.running import Running
from specdec.sparse.layer_sharing import Sharing
from specdec.sparse.view import SparseView

from helpers import models
from helpers.passes import make_row, random_tree, take_up

STEPS = (AccumulatedMass(), Recurrence(threshold=0.05))


@pytest.fixture(scope="module")
def target():
    return Target(models.build("llama", dtype=torch.float64))


def model_of(target, rows, followers):
    wants = Needs(verified=True, followers=followers)
    return CachedModel(target, FullView(), rows, recorder=QueryRecorder.of(wants))


def statistics(model, step, sequence):
    account = Ledger.of(model.store, step).accounts[sequence]
    return account.layers, account.prompt


@torch.inference_mode()
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 20), rounds=st.integers(1, 5), samples=st.integers(1, 2))
def test_they_are_those_of_reading_the_text_at_once(target, seed, rounds, samples):
    """Trees of which a path is accepted, ragged rows and rows that share a prompt: in the end each
    statistic is what reading all of the text as one prompt gives."""
    rng = random.Random(seed)
    prompts = [[rng.randrange(40) for _ in range(n)] for n in (rng.randint(3, 20), 70)]
    rows = [
        make_row(i * samples + s, prompt, i)
        for i, prompt in enumerate(prompts)
        for s in range(samples)
    ]
    followers = tuple(Running(step) for step in STEPS)
    model = model_of(target, rows, followers)
    for _ in range(rounds):
        active = [row for row in rows if rng.random() < 0.8] or rows[:1]
        trees = [random_tree(rng, row.tokens[-1], rng.randint(1, 6)) for row in active]
        model.forward(active, trees)
        for row, tree in zip(active, trees):
            take_up(row, tree, rng.randrange(len(tree)), rng.randrange(40))
    for row in rows:
        model.sync_to(row, len(row.tokens) - 1)
        length = model.store.length(row.index)
        again = make_row(0, row.tokens[: length + 1])
        whole = model_of(target, [again], followers)
        for step in STEPS:
            got, prompt = statistics(model, step, row.index)
            want, _ = statistics(whole, step, 0)
            assert prompt <= length and set(got) == set(want) == {*range(target.num_layers)}
            for layer in want:
                assert got[layer][0].shape[1] == length
                for a, b in zip(got[layer], want[layer]):
                    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@torch.inference_mode()
def test_tokens_that_are_taken_back_leave_them(target):
    rows = [make_row(0, list(range(30)))]
    model = model_of(target, rows, (Running(STEPS[0]),))
    model.store.crop(0, 12)
    layers, prompt = statistics(model, STEPS[0], 0)
    assert prompt == 12 and all(kept[0].shape[1] == 12 for kept in layers.values())


def view_of(name="x", **how):
    how = {"budget": 24, "sink": 2, "recent": 4, **how}
    return SparseView(name, sharing=Sharing(), **how)


@dataclass(frozen=True)
class ByStep(ViewMethod):
    """A view by the statistics of a step scorer, and nothing else."""

    step: StepScorer | None = None

    def view(self, target):
        return view_of(importance=Running(self.step))


def drafter_of(method):
    def make(target, options):
        return SelfDraft(target, SelfDraftOptions(options.num_draft_tokens, on=method))

    return make


@pytest.mark.parametrize("where", ["device", "disk"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_view_by_them_leaves_the_text_as_it_is(dtype, where):
    engine = Engine(models.build("gemma2", dtype=dtype, head_dim=16))
    prompts = [[(7 * i * i + 3) % 40 for i in range(n)] for n in (90, 50, 9)]
    how = {"max_new_tokens": 24, "eos_token_id": [], "num_return_sequences": 2}
    how |= {"temperature": 1.0, "seed": 3}
    want = engine.generate(prompts, drafter="none", **how)
    if where == "disk":
        engine.target.kv_memory = KVMemory("disk", sizes=Sizes(32, 16, 1024, 1 << 12))
    for step in STEPS:
        draft = drafter_of(ByStep(step))
        got = engine.generate(prompts, drafter=draft, num_draft_tokens=4, **how)
        assert [x.token_ids for x in got] == [x.token_ids for x in want]
        reads = got[0].stats.reads["x"]
        assert max(reads.tokens) <= 24 and reads.full_passes == 0
