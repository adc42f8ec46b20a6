"""What docs/threads.md says may be shared between threads: one test for each line of its table."""

from __future__ import annotations

import copy
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch

import specdec.hf
from specdec import Engine
from specdec.control import costs
from specdec.errors import SpecdecError
from specdec.forward import attention
from specdec.forward.cuda_graphs import Graphs
from specdec.progress import quiet_transformers

from helpers import models
from helpers.matrix import crossed

PROMPTS = [[1, 5, 2, 8, 3], [7, 7, 2], [3, 4] * 6, [9, 8, 7, 9, 8, 7]]
SELF = {"budget": 20, "sink": 2, "recent": 2}
OPTIONS = [
    {"drafter": "none"}, {"drafter": "ngram", "min_ngram": 1}, {"drafter": "auto"},
    {"drafter": "quest", **SELF}, {"drafter": "none", "temperature": 0.9, "seed": 3},
]  # fmt: skip


def together(*jobs):
    """The results of jobs that are all at work at the same time."""
    gate = threading.Barrier(len(jobs))

    def run(job):
        gate.wait(20)
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [x.result(60) for x in [pool.submit(run, job) for job in jobs]]


@crossed(together=1, name=["llama", "gemma3"], dtype=["float32", "float64"])
def test_one_engine(name, dtype):
    """Packed and plain."""
    engine = Engine(models.build(name, dtype=getattr(torch, dtype)))

    def text(prompt, options):
        return engine.generate(prompt, max_new_tokens=16, **options).token_ids

    pairs = [(prompt, options) for prompt in PROMPTS[:2] for options in OPTIONS]
    want = [text(*pair) for pair in pairs]
    jobs = [lambda pair=pair: text(*pair) for pair in pairs]
    assert together(*jobs) == want


class Alone:
    """A capture that runs a pass again to replay it, and fails if two are at it."""

    nbytes = 0

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, run):
        with self.inside():
            logits, left = run()

        def replay():
            with self.inside():
                logits.copy_(run()[0])

        return (logits, left), replay

    @contextmanager
    def inside(self):
        assert self.lock.acquire(blocking=False)
        yield
        self.lock.release()


def test_one_engine_whose_passes_are_graphs():
    """Only one pass is captured or replayed at a time."""
    engine = Engine(models.build("llama", dtype=torch.float64))
    engine.target.graphs = Graphs(Alone(), after=0)
    want = [engine.generate(p, drafter="none", max_new_tokens=12).token_ids for p in PROMPTS]
    jobs = [lambda p=p: engine.generate(p, drafter="none", max_new_tokens=12) for p in PROMPTS]
    assert [g.token_ids for g in together(*jobs)] == want
    assert engine.target.graphs.replays and not engine.target.graphs.refused


def test_two_engines():
    engines = [Engine(models.build("llama", seed=i, dtype=torch.float32)) for i in range(2)]
    want = [e.generate(PROMPTS[0], max_new_tokens=16).token_ids for e in engines]
    jobs = [lambda e=e: e.generate(PROMPTS[0], max_new_tokens=16).token_ids for e in engines * 2]
    assert together(*jobs) == want * 2


def test_a_draft_model_by_two_engines():
    draft = models.build("llama", seed=5, dtype=torch.float32)
    engines = [Engine(models.build("llama", seed=i, dtype=torch.float32)) for i in range(2)]
    want = [e.generate(PROMPTS[0], drafter="none", max_new_tokens=16).token_ids for e in engines]
    jobs = [
        lambda e=e: (
            e.generate(PROMPTS[0], drafter="model", draft_model=draft, max_new_tokens=16).token_ids
        )
        for e in engines * 2
    ]
    assert together(*jobs) == want * 2


# -- the adapter: models that stay their caller's own ----------------------------------------------


def adapted(model, prompt, new=12, **kwargs):
    ids = torch.tensor([prompt])
    kwargs = {"do_sample": False, "pad_token_id": 0, "drafter": "none"} | kwargs
    if kwargs["drafter"] is None:
        del kwargs["drafter"]
    else:
        kwargs["custom_generate"] = specdec.hf.generate
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, **kwargs)
    return out[0, len(prompt) :].tolist()


@pytest.fixture
def lent():
    """A model in training mode, but for a part of it, which is to be found so afterwards."""
    model = models.build("llama", dtype=torch.float64)
    model.train()
    model.model.layers[1].mlp.eval()
    modes = [module.training for module in model.modules()]
    yield model
    assert model.config._attn_implementation == "eager"
    assert [module.training for module in model.modules()] == modes
    assert not attention.is_driven(model)
    assert model(torch.tensor([[1, 2]])).logits.isfinite().all()


def test_one_model_by_the_adapter(lent):
    want = [adapted(lent, prompt, drafter=None) for prompt in PROMPTS]
    assert together(*[lambda p=p: adapted(lent, p) for p in PROMPTS]) == want


@pytest.mark.parametrize("fails", [None, "first", "second", "both"])
@pytest.mark.parametrize("leaves", ["first", "second"])
def test_whoever_leaves_the_adapter_first(lent, leaves, fails):
    """Calls that overlap, in either order of leaving, by an error or not."""
    want = adapted(lent, PROMPTS[0], 20, drafter=None)
    inside, left = threading.Event(), threading.Event()
    names, out = ("first", "second"), {}

    def criterion(name):
        def ask(ids, scores):
            if ids.shape[1] == len(PROMPTS[0]) + 2:
                if name == "first":
                    threading.Thread(target=call, args=("second",)).start()
                    assert inside.wait(20)
                else:
                    inside.set()
                if name != leaves:
                    assert left.wait(20)
            if fails in (name, "both") and ids.shape[1] == len(PROMPTS[0]) + 4:
                raise ZeroDivisionError
            return torch.tensor([False])

        return ask

    done = {name: threading.Event() for name in names}

    def call(name):
        try:
            out[name] = adapted(lent, PROMPTS[0], 20, stopping_criteria=[criterion(name)])
        except ZeroDivisionError:
            out[name] = "failed"
        if name == leaves:
            left.set()
        done[name].set()

    threading.Thread(target=call, args=("first",)).start()
    assert all(done[name].wait(60) for name in names)
    for name in names:
        assert out[name] == ("failed" if fails in (name, "both") else want)


def test_a_criterion_that_generates_by_the_same_model(lent):
    """A call inside a call has its own KV store."""
    want, inner = adapted(lent, PROMPTS[0], drafter=None), adapted(lent, PROMPTS[1], drafter=None)
    seen = []

    def ask(ids, scores):
        seen.append(adapted(lent, PROMPTS[1]))
        return torch.tensor([False])

    assert adapted(lent, PROMPTS[0], stopping_criteria=[ask]) == want
    assert len(seen) >= 11 and all(text == inner for text in seen)


@pytest.mark.parametrize("where", ["stopping_criteria", "logits_processor"])
@pytest.mark.parametrize("alone", ["forward", "generate"])
def test_whoever_calls_a_lent_model_alone_is_told(lent, where, alone):
    """It would attend by our function, without a store; the error says so and nothing is left."""

    def ask(ids, scores):
        if alone == "forward":
            lent(input_ids=ids)
        else:
            adapted(lent, PROMPTS[1], 2, drafter=None)
        return scores if where == "logits_processor" else torch.tensor([False])

    with pytest.raises(SpecdecError, match="needs a copy of it"):
        adapted(lent, PROMPTS[0], **{where: [ask]})
    twin = copy.deepcopy(lent)

    def ask_a_copy(ids, scores):
        twin(input_ids=ids)
        return scores if where == "logits_processor" else torch.tensor([False])

    want = adapted(lent, PROMPTS[0], drafter=None)
    assert adapted(lent, PROMPTS[0], **{where: [ask_a_copy]}) == want


def test_an_engines_model_by_the_adapter():
    """It stays the engine's own."""
    engine = Engine(models.build("llama", dtype=torch.float32))
    want = engine.generate(PROMPTS[0], drafter="none", max_new_tokens=12).token_ids
    assert adapted(engine.model, PROMPTS[0]) == want
    assert engine.generate(PROMPTS[0], drafter="none", max_new_tokens=12).token_ids == want


# -- what a process has one of ---------------------------------------------------------------------


def test_costs(tmp_path):
    """Notes, tables and files of many threads: whoever reads sees a whole one."""
    known = costs.open_costs(tmp_path, {})
    assert costs.open_costs(tmp_path, {}) is known
    known.learn(0, {1: 1.0, 8: 2.0})

    def work(number):
        for i in range(60):
            known.learn(1000 * number + i, {1: 1.0, 8: 2.0})
            known.note(1, 10 * i, 1.0)
            known.draft_cost(f"drafter {number}", 1 << i % 20, 0.1).note(1, 0, 0.1)
            assert known.seconds(4, i) > 0 and known.measured_near(i) is not None
            if i % 10 == 0:
                known.save()

    together(*[lambda n=n: work(n) for n in range(4)])
    known.save()
    (file,) = tmp_path.glob("*.json")
    assert len(json.loads(file.read_text())["passes"]) == 1 + 4 * 60 - 1


def test_quiet_loading():
    """Whatever the order of leaving, transformers speaks afterwards as it did before."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    a, b = quiet_transformers(), quiet_transformers()
    a.__enter__(), b.__enter__()
    assert logging.get_verbosity() == logging.ERROR
    a.__exit__(None, None, None)
    assert logging.get_verbosity() == logging.ERROR, "the other one still loads"
    b.__exit__(None, None, None)
    assert logging.get_verbosity() == before
    told = [[], []]

    def load(number):
        with quiet_transformers(lambda done, total: told[number].append((done, total))):
            ready.wait(20)
            list(logging.tqdm(range(3 + number)))

    ready = threading.Barrier(2)
    together(lambda: load(0), lambda: load(1))
    assert [x[-1] for x in told] == [(3, 3), (4, 4)], "each hears of its own loops"
    assert logging.get_verbosity() == before
