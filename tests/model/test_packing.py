"""A packed model is saved, copied and given back as what it was."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers

from helpers import models

pytest.importorskip("numba", reason="numba is not installed")

from specdec import Engine
from specdec.errors import SpecdecError
from specdec.kernels.linear.packed_weight import quantise
from specdec.model.released import release

pytestmark = pytest.mark.fast

TOKENS = torch.tensor([[1, 5, 2, 8, 3]])


def equal(state, other):
    return state.keys() == other.keys() and all(torch.equal(x, other[k]) for k, x in state.items())


@torch.inference_mode()
def logits(model):
    return model(TOKENS, use_cache=False).logits


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def pair(request):
    """A model, and the engine that holds a copy of it."""
    model = models.build("llama", dtype=torch.float32, tie_word_embeddings=request.param).eval()
    model.tie_weights()
    engine = Engine(copy.deepcopy(model))
    assert engine.packing.weights and engine.packing.fused
    return model, engine


def test_saved_as_it_was(pair, tmp_path):
    model, engine = pair
    text = engine.generate([1, 2, 3], drafter="none", max_new_tokens=5).token_ids
    assert equal(model.state_dict(), engine.model.state_dict())
    engine.model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert equal(model.state_dict(), again.state_dict())
    torch.testing.assert_close(logits(again), logits(model))
    assert engine.generate([1, 2, 3], drafter="none", max_new_tokens=5).token_ids == text


def test_copied_as_it_was(pair):
    """The copy has nothing of the engine but the name of the attention function."""
    model, engine = pair
    text = engine.generate([1, 2, 3], drafter="none", max_new_tokens=5).token_ids
    twin = copy.deepcopy(engine.model)
    with pytest.raises(SpecdecError, match="set_attn_implementation"):
        logits(twin)
    twin.set_attn_implementation("sdpa")
    torch.testing.assert_close(logits(twin), logits(model))
    assert equal(model.state_dict(), twin.state_dict())
    kept = {id(p) for p in engine.model.parameters()}
    assert not any(id(p) in kept for p in twin.parameters())
    twin.load_state_dict({key: torch.zeros_like(x) for key, x in model.state_dict().items()})
    assert logits(twin).abs().max() == 0
    again = copy.deepcopy(twin)
    assert logits(again).abs().max() == 0
    assert engine.generate([1, 2, 3], drafter="none", max_new_tokens=5).token_ids == text
    assert Engine(copy.deepcopy(model)).generate([1, 2, 3], drafter="none",
                                                 max_new_tokens=5).token_ids == text  # fmt: skip


def test_loading_other_weights_is_refused_until_restored(pair):
    model, engine = pair
    with pytest.raises(SpecdecError, match="restore"):
        engine.model.load_state_dict(model.state_dict())
    packing = engine.packing
    packing.restore()
    packing.restore()  # once is enough
    engine.model.load_state_dict(model.state_dict())
    engine.model.set_attn_implementation("sdpa")
    torch.testing.assert_close(logits(engine.model), logits(model))
    assert "__deepcopy__" not in vars(engine.model)
    assert not any("forward" in vars(module) for module in engine.model.modules())


def test_weights_as_stored_are_saved_dequantised():
    """What is saved are the values that passes multiply by."""
    model = models.build("llama", dtype=torch.float32)
    name = "model.layers.0.mlp.down_proj"
    weight = quantise(model.get_submodule(name).weight, 8)
    model.get_submodule(name).weight = release(weight)
    engine = Engine(model)
    assert engine.packing.weights[model.get_submodule(name)] is weight
    assert torch.equal(engine.model.state_dict()[name + ".weight"], weight.dense())


class Coded(torch.Tensor):
    """A weight behind a tensor of its own, as quantising libraries have it: NumPy cannot see it."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.numpy:
            raise RuntimeError("no plain tensor")
        if func is torch.nn.functional.linear:
            x, weight, *rest = args
            return func(x, weight.as_subclass(torch.Tensor), *rest)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_weights_of_another_library_are_left_to_it():
    model = models.build("llama", dtype=torch.float32).eval()
    want = Engine(copy.deepcopy(model)).generate([3, 1, 4, 1, 5], max_new_tokens=16)
    ours = model.model.layers[0].mlp.up_proj
    ours.weight = torch.nn.Parameter(ours.weight.data.as_subclass(Coded), requires_grad=False)
    engine = Engine(model)
    assert ours not in engine.packing.weights and len(engine.packing.weights) > 1
    assert engine.generate([3, 1, 4, 1, 5], max_new_tokens=16).token_ids == want.token_ids
