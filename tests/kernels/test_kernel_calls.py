"""Each op runs the kernel that it should: a plain twin in its place gives the same, only slower."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import hostile, longspec_models, models
from helpers.kernel_calls import KERNELS, kernel_of, recorded, wrong
from helpers.stored_gguf import blocks

pytest.importorskip("numba", reason="numba is not installed")

from specdec import Engine, kernels
from specdec.bench.kernels.cases import CASES, Inputs
from specdec.drafts.longspec.drafter import LongSpec, fitted
from specdec.drafts.methods.longspec import LongSpecOptions
from specdec.kernels.attention.chunk_attention import ChunkReads, chunk_attention
from specdec.kernels.dispatch import Op
from specdec.kernels.linear.packed_weight import pack, pack_stored
from specdec.kernels.linear.skinny_linear import skinny_linear
from specdec.kernels.linear.weight_rows import weight_rows
from specdec.kernels.selection.index_logits import index_logits
from specdec.kernels.selection.select_pages import select_by_index
from specdec.model.probes import chain
from specdec.registry import VIEWS

HOW = dict(votes="max", pool=3, all_heads=False, count=9, first=1, last=1)


def _linear(x, run):
    run(skinny_linear)(x.normal(3, 64), pack(torch.ones(40, 64)))


def _index(x, run):
    run(index_logits)(x.normal(2, 6, 32), x.normal(2, 40, 32), scale=0.2)
    run(select_by_index)(x.normal(2, 6, 32), x.normal(2, 40, 32), scale=0.2, signed=False, **HOW)


def _rows(x, run):
    stored = pack_stored("Q8_0", blocks("Q8_0", 16, 64, np.random.default_rng(0)))
    run(weight_rows)(torch.empty(2, 64), stored, torch.tensor([3, 9]))


def _chunk(x, run):
    place = np.arange(21, 30)
    reads = ChunkReads(np.array([[0, 0, 30, 0]]), place * 0, place + 1)
    levels = [(x.normal(1, 2, 30, 32), x.normal(1, 2, 30, 32))]
    run(chunk_attention)(x.normal(1, 4, 9, 32), levels, reads, scale=0.2)


@pytest.fixture(scope="module")
def engine():
    model = models.build("llama", dtype=torch.float32, head_dim=64, num_hidden_layers=3)
    return Engine(model, hostile.tokenizer(models.VOCAB))


# What only a pass of a model calls, and so is called below.
IN_PASSES = {"decoder_run", "attention_inputs", "layer_output", "head_argmax"}
IN_DRAFTS = {"draft_block"}


def test_called_by_itself():
    """Every op on float32 in host memory, at the shapes of `specdec bench kernels`."""
    cases = [*CASES["triton"].values(), *CASES["numba"].values(), _linear, _index, _rows, _chunk]
    with recorded(by_name=False) as calls:
        for case in cases:
            case(Inputs("cpu", torch.float32, False), lambda op: op)
    assert not wrong(calls, "numba")
    missing = {op for op in KERNELS if kernel_of(op, "numba")} - set(calls)
    assert missing == IN_PASSES | IN_DRAFTS


class Watching:
    """Sees each layer's call, so that layers are called one by one."""

    def see(self, call, pass_):
        pass


def test_called_by_passes(engine):
    """Of a packed model: layers in one call, layers one by one, and the choice of a token."""
    target = engine.target
    with recorded() as calls:
        for observers in ([], [Watching()]):
            tokens, pass_ = chain(target, observers=observers)
            target.choose([tokens], pass_)
    assert not wrong(calls, "numba") and set(calls) >= IN_PASSES | {"level_attention", "stage_kv"}


@pytest.mark.parametrize(
    "name", [name for name, x in VIEWS.items() if name != "full" and not x.needs_documents]
)
def test_called_by_drafts(engine, name):
    """Whatever a method makes of keys and queries: no shape that it meets has no kernel."""
    options = {"budget": 64, "sink": 2, "recent": 3, "kv_group": 32}
    options = {key: value for key, value in options.items() if key in VIEWS[name].options}
    with recorded() as calls:
        engine.generate([i * i % 37 for i in range(130)], drafter=name, max_new_tokens=5, **options)
    assert not wrong(calls, "numba") and len(calls) > 2


def test_called_by_trained_blocks(engine):
    """A step of one in one call, and its window's keys."""
    as_it_was = Engine(
        models.build("llama", head_dim=64, num_hidden_layers=3), hostile.tokenizer(models.VOCAB)
    )
    made = longspec_models.checkpoint(as_it_was.target)
    parts = fitted(engine.target, made.block(), made.ids)

    def drafter(target, options):
        return LongSpec(target, LongSpecOptions(draft_model=parts))

    with recorded() as calls:
        engine.generate([1, 2, 3], drafter=drafter, max_new_tokens=5)
    assert not wrong(calls, "numba") and set(calls) >= IN_DRAFTS | {"attention_inputs"}


def test_the_table_is_whole():
    """Every op that has a kernel is in it, and no kernel that an op does not have."""
    room = Path(kernels.__file__).parent
    found = {}
    for path in sorted(room.rglob("*.py")):
        if "@dispatched" in path.read_text("utf-8"):
            parts = path.relative_to(room).with_suffix("").parts
            module = import_module(".".join(["specdec.kernels", *parts]))
            found |= {
                op.__name__: op
                for op in vars(module).values()
                if isinstance(op, Op) and op.plain.__module__ == module.__name__
            }
    assert set(found) == set(KERNELS)
    for name, op in found.items():
        assert op._kinds == {k for k in ("numba", "triton") if kernel_of(name, k)}, name
