"""torch.compile of a model that we drive: one graph, the same text, no graph for every pass."""

from __future__ import annotations

import gc

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.library import opcheck

from specdec import Engine
from specdec.errors import SpecdecError
from specdec.forward import attention_op, handles
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import FullView
from specdec.model.target import Target

from helpers import models

PROMPTS = [[1, 2, 3, 4, 5], [7, 8], [3, 4] * 6]
SETTINGS = [
    {"drafter": "none"},
    {"drafter": "ngram", "min_ngram": 1, "num_draft_tokens": 3},
    {"drafter": "quest", "budget": 20, "sink": 2, "recent": 2},
    {"drafter": "kivi", "kv_group": 32, "recent": 0},
]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("llama", "eager"),
        pytest.param("llama", "aot_eager", marks=pytest.mark.slow),
        pytest.param("gemma2", "aot_eager", marks=pytest.mark.slow),
    ],
)
def test_the_same_text_from_one_graph(name, backend):
    """No graph break; windows and softcaps travel through the operator."""
    engine = Engine(models.build(name))
    want = [
        [g.token_ids for g in engine.generate(PROMPTS, max_new_tokens=12, **settings)]
        for settings in SETTINGS
    ]
    counter = CompileCounterWithBackend(backend)
    engine.model.compile(backend=counter, fullgraph=True, dynamic=True)
    for settings, texts in zip(SETTINGS, want):
        out = engine.generate(PROMPTS, max_new_tokens=12, **settings)
        assert [g.token_ids for g in out] == texts
    calls = [
        sum("specdec.attend" in str(node.target) for node in graph.graph.nodes)
        for graph in counter.graphs
        if list(graph.graph.nodes)  # a trace that began anew left an empty one
    ]
    assert calls and set(calls) == {engine.target.num_layers}
    assert len(calls) < 9, "a graph for every kind of pass, not for every pass"


def test_a_layer(monkeypatch):
    """A single decoder layer, with a pass of its own each time: compiled once."""
    target = Target(models.build("llama"))
    layer, rotary = target.model.model.layers[0], target.model.model.rotary_emb
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for seed in range(3):
        torch.manual_seed(seed)
        hidden, places = torch.randn(1, 5, 24).double(), torch.arange(5)[None]
        outputs = []
        for run in (layer, compiled):
            pass_ = ForwardPass(target.new_store(1, 8), FullView(), [0], places)
            with torch.inference_mode():
                out = run(hidden, position_embeddings=rotary(hidden, places), specdec_pass=pass_)
            outputs.append((out[0] if isinstance(out, tuple) else out, pass_.store.levels[0].k[0]))
        (want, keys), (got, staged) = outputs
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(staged[:, :, :5], keys[:, :, :5])
    assert counter.frame_count == 1


def test_the_operator_is_well_formed():
    """PyTorch's own checks of schema, fake and aliasing."""
    target = Target(models.build("llama"))
    pass_ = ForwardPass(target.new_store(1, 8), FullView(), [0], torch.arange(3)[None])
    q, k, v = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 3, 8), torch.randn(1, 2, 3, 8)
    for sinks, *numbers in ((None, 0.3, None, None), (torch.randn(4), 0.3, 0.5, 2)):
        opcheck(attention_op.attend_op, (q, k, v, sinks, pass_.handle, 0, *numbers))
    assert torch.Tag.cudagraph_unsafe in torch.ops.specdec.attend.default.tags


def test_handles_do_not_keep_passes():
    target = Target(models.build("llama"))
    gc.collect()
    before = len(handles._named)
    pass_ = ForwardPass(target.new_store(1, 8), FullView(), [0], torch.arange(3)[None])
    assert len(handles._named) == before + 1
    del pass_
    gc.collect()
    assert len(handles._named) == before


def test_without_a_pass_it_says_so():
    target = Target(models.build("llama"))
    with pytest.raises(SpecdecError, match="called without a pass"):
        target.model(torch.tensor([[1, 2]]))
