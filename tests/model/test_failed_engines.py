"""An Engine that cannot be made leaves the model that it was to be made of as it was."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers

from specdec import Engine
from specdec.errors import InvalidArgument, OutOfMemory, SpecdecError, UnsupportedModel
from specdec.model.packing import Packing
from specdec.model.target import Target

from helpers import models

pytestmark = pytest.mark.fast

IDS = torch.tensor([[1, 5, 2, 8, 3]])


def state(model):
    """All that an engine changes."""
    return (
        model.config._attn_implementation,
        [module.training for module in model.modules()],
        [sorted(vars(module)) for module in model.modules()],
        [len(module._state_dict_hooks) for module in model.modules()],
        [len(module._load_state_dict_pre_hooks) for module in model.modules()],
        [(name, type(p), p.shape, p.dtype) for name, p in model.named_parameters()],
    )


def trained(model):
    """In training mode, but for some of its parts."""
    model.train()
    model.model.layers[0].mlp.eval()
    return model


@pytest.mark.parametrize("kwargs, error", [
    ({"kv_tier": "cellar"}, InvalidArgument),
    ({"kv_tier": ["device", "cellar"]}, InvalidArgument),
    ({"max_memory": {"cpu": "1KiB"}}, OutOfMemory),
    ({"max_memory": {"cpu": "much"}}, InvalidArgument),
    ({"max_memory": {"gpu": "1GiB"}}, InvalidArgument),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["packed", "plain"])
def test_arguments_that_cannot_be_honoured(dtype, kwargs, error):
    model = trained(models.build("llama", dtype=dtype))
    before, twin = state(model), copy.deepcopy(model)
    with pytest.raises(error):
        Engine(model, **kwargs)
    assert state(model) == before
    model.eval(), twin.eval()
    assert torch.equal(model(IDS).logits, twin(IDS).logits)
    assert Engine(model).generate([1, 2], max_new_tokens=3).token_ids, "another try"


def test_an_architecture_that_differs(monkeypatch):
    """It shows only once our attention is in place."""
    config = transformers.OlmoConfig(vocab_size=40, hidden_size=32, intermediate_size=32,
                                     num_hidden_layers=2, num_attention_heads=4)  # fmt: skip
    model = trained(transformers.OlmoForCausalLM(config))
    before = state(model)
    monkeypatch.setattr(Target, "forward", lambda *_: torch.zeros(1, 8, 40))
    with pytest.raises(UnsupportedModel, match="differs"):
        Engine(model)
    assert state(model) == before


@pytest.mark.parametrize("where", ["fuse", "of"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupted_half_way(monkeypatch, where, error):
    """While weights are packed, and while layers are compared with their fused forms."""
    pytest.importorskip("numba", reason="numba is not installed")
    model = models.build("llama", dtype=torch.float32)
    before, twin = state(model), copy.deepcopy(model)
    name = {"fuse": "specdec.model.packing._proven", "of": "specdec.model.packing.pack"}[where]
    done, work = [], {"fuse": "_proven", "of": "pack"}[where]
    real = __import__("specdec.model.packing", fromlist=[work]).__dict__[work]

    def fails(*args):
        if len(done) == 1:
            raise error
        done.append(1)
        return real(*args)

    monkeypatch.setattr(name, fails)
    with pytest.raises(error):
        Engine(model)
    assert state(model) == before and Packing.on(model) is None
    assert torch.equal(model(IDS).logits, twin(IDS).logits)


def test_a_packing_that_was_there_before_stays():
    model = models.build("llama", dtype=torch.float32)
    first = Engine(model)
    want = first.generate([1, 2, 3], max_new_tokens=5).token_ids
    with pytest.raises(SpecdecError):
        Engine(model, kv_tier="cellar")
    assert first.generate([1, 2, 3], max_new_tokens=5).token_ids == want
    assert Packing.on(model) is first.packing


def test_a_draft_model_that_cannot_be_made_ready(monkeypatch):
    model = models.build("llama", dtype=torch.float32)
    engine, draft = Engine(model), models.build("llama", seed=3, dtype=torch.float32)
    before = state(draft)

    def fails(*_):
        raise MemoryError

    monkeypatch.setattr("specdec.model.take_up._compile", fails)
    with pytest.raises(MemoryError):
        engine.generate([1, 2], drafter="model", draft_model=draft)
    assert state(draft) == before
