"""What is done to a model after `Engine(...)` takes effect, or is an error; never silence.

The right text is transformers' own, of a copy to which the same was done.
"""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from torch import nn
from torch.nn.modules import module as every_module
from torch.nn.utils import parametrize

from helpers import models

pytest.importorskip("numba", reason="numba is not installed")

from specdec import Engine
from specdec.errors import SpecdecError

PROMPT = [1, 5, 2, 8, 3]
NEW = 8


def stock(model, prompt=PROMPT, new=NEW):
    """Greedy text of transformers alone, without a cache."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        for _ in range(new):
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=-1)
    return ids[0, len(prompt) :].tolist()


def ours(engine, drafter="none", **kwargs):
    return engine.generate(PROMPT, drafter=drafter, max_new_tokens=NEW, **kwargs).token_ids


class Lora(nn.Module):
    """An adapter as they are commonly made: the base layer, and a product of two thin ones."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        generator = torch.Generator().manual_seed(1)
        self.down = nn.Parameter(torch.randn(2, base.in_features, generator=generator))
        self.up = nn.Parameter(torch.randn(base.out_features, 2, generator=generator))

    def forward(self, x):
        return self.base(x) + (x @ self.down.T) @ self.up.T


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def scaled(factor):
    return lambda module, args, output: output * factor


def turned_input(module, args):
    return (-args[0], *args[1:])


def patched(module, factor=-0.5):
    forward = module.forward
    module.forward = lambda *args, **kwargs: forward(*args, **kwargs) * factor


def patched_attention(model):
    attention = model.model.layers[1].self_attn
    forward = attention.forward

    def turned(*args, **kwargs):
        out, weights = forward(*args, **kwargs)
        return -out, weights

    attention.forward = turned


def with_adapter(model):
    mlp = model.model.layers[1].mlp
    name = "gate_up_proj" if hasattr(mlp, "gate_up_proj") else "gate_proj"
    setattr(mlp, name, Lora(getattr(mlp, name)))


def another_norm(model):
    for layer in model.model.layers:
        layer.input_layernorm = copy.deepcopy(layer.input_layernorm)
        with torch.no_grad():
            layer.input_layernorm.weight -= 1.5


def in_place(change):
    def work(model):
        with torch.no_grad():
            for layer in model.model.layers:
                change(layer.input_layernorm)

    return work


def exchanged(model):
    layers = model.model.layers
    layers[0].mlp, layers[1].mlp = layers[1].mlp, layers[0].mlp


def new_weight(model):
    mlp = model.model.layers[0].mlp
    shape = mlp.down_proj.weight.shape
    generator = torch.Generator().manual_seed(2)
    mlp.down_proj.weight = nn.Parameter(0.3 * torch.randn(shape, generator=generator))


def last(model):
    return model.model.layers[-1]


CHANGES = {
    "hook on an MLP": lambda m: last(m).mlp.register_forward_hook(scaled(0.0)),
    "pre-hook on an MLP": lambda m: m.model.layers[0].mlp.register_forward_pre_hook(turned_input),
    "hook on a linear": lambda m: last(m).mlp.down_proj.register_forward_hook(scaled(-1.0)),
    "pre-hook on a linear": lambda m: last(m).self_attn.o_proj.register_forward_pre_hook(
        turned_input
    ),
    "hook on a norm": lambda m: m.model.layers[0].input_layernorm.register_forward_hook(
        scaled(-1.0)
    ),
    "hook on attention": lambda m: last(m).self_attn.register_forward_hook(
        lambda module, args, out: (out[0] * 0.0, out[1])
    ),
    "hook on an activation": lambda m: [
        x.mlp.register_forward_hook(scaled(-1.0)) if not hasattr(x.mlp, "act_fn")
        else x.mlp.act_fn.register_forward_hook(scaled(-1.0)) for x in m.model.layers
    ],
    "hook on a layer": lambda m: m.model.layers[0].register_forward_hook(scaled(-0.5)),
    "hook on the last norm": lambda m: m.model.norm.register_forward_hook(scaled(-1.0)),
    "hook on the embedding": lambda m: m.model.embed_tokens.register_forward_hook(scaled(-1.0)),
    "hook on the head": lambda m: m.lm_head.register_forward_hook(scaled(-1.0)),
    "pre-hook on the head": lambda m: m.lm_head.register_forward_pre_hook(
        lambda module, args: (-args[0],)
    ),
    "patched MLP": lambda m: patched(m.model.layers[0].mlp),
    "patched linear": lambda m: patched(last(m).mlp.down_proj),
    "patched norm": lambda m: patched(last(m).input_layernorm, -1.0),
    "patched layer": lambda m: patched(m.model.layers[0], -0.5),
    "patched attention": patched_attention,
    "patched head": lambda m: patched(m.lm_head, -1.0),
    "adapter": with_adapter,
    "adapter on the head": lambda m: setattr(m, "lm_head", Lora(m.lm_head)),
    "another norm": another_norm,
    "exchanged MLPs": exchanged,
    "new weight of a linear": new_weight,
    "weight.sub_": in_place(lambda norm: norm.weight.sub_(2.0)),
    "weight.data.sub_": in_place(lambda norm: norm.weight.data.sub_(2.0)),
    "weight.data =": in_place(lambda norm: setattr(norm.weight, "data", norm.weight.data - 2)),
    "load_state_dict": in_place(
        lambda norm: norm.load_state_dict({"weight": norm.weight.detach() - 2})
    ),
    "parametrized norm": in_place(
        lambda norm: parametrize.register_parametrization(norm, "weight", Doubled())
    ),
    "scaling": lambda m: setattr(last(m).self_attn, "scaling", 5.0),
    "epsilon": in_place(
        lambda norm: setattr(norm, "variance_epsilon" if hasattr(norm, "variance_epsilon")
                             else "eps", 50.0)
    ),
}  # fmt: skip


ELSEWHERE = {  # what other architectures hold in other ways
    "gemma3": ["another norm", "weight.sub_", "weight.data.sub_", "weight.data ="],
    "phi3": ["adapter", "hook on a linear", "patched attention", "patched linear"],
    "qwen3": ["hook on attention", "scaling", "epsilon"],
}  # fmt: skip
EVERY = [("llama", x) for x in CHANGES] + [(x, y) for x in ELSEWHERE for y in ELSEWHERE[x]]


@cache
def said(name):
    """A model, and what it says."""
    model = models.build(name, dtype=torch.float32, tie_word_embeddings=False)
    return model, stock(model)


@pytest.mark.parametrize(("architecture", "name"), EVERY)
def test_what_was_changed_takes_effect(architecture, name):
    model, before = said(architecture)
    engine, twin = Engine(copy.deepcopy(model)), copy.deepcopy(model)
    assert engine.packing.fused and ours(engine) == before
    CHANGES[name](engine.model)
    CHANGES[name](twin)
    want = stock(twin)
    assert ours(engine) == want
    assert want != before, "the change is one that shows"


@pytest.mark.parametrize("name", ["hook on an MLP", "hook on a layer", "hook on the head"])
def test_a_hook_that_is_gone_costs_nothing(name):
    model = models.build("llama", dtype=torch.float32)
    engine = Engine(model)
    want = ours(engine)
    hook = CHANGES[name](engine.model)
    assert ours(engine) != want
    hook.remove()
    assert ours(engine) == want
    assert not engine.packing.watch.own and not engine.packing.watch.alone
    assert engine.target.can_choose


def test_a_hook_in_the_middle_of_a_stream(caplog):
    """It counts from the next pass on; the log says once what it costs."""
    model = models.build("llama", dtype=torch.float32)
    engine, seen = Engine(model), []
    for step in engine.stream(PROMPT, drafter="none", max_new_tokens=6):
        if len(seen) == 0:
            model.model.layers[1].mlp.register_forward_hook(lambda *_: seen.append(step))
    assert len(seen) == 5
    assert sum("keep their own forward" in line.message for line in caplog.records) == 1


def test_a_hook_for_every_module():
    engine, names = Engine(models.build("llama", dtype=torch.float32)), []
    want = ours(engine)
    hook = every_module.register_module_forward_hook(lambda m, *_: names.append(type(m).__name__))
    try:
        assert ours(engine) == want
    finally:
        hook.remove()
    assert {"LlamaMLP", "Linear", "LlamaRMSNorm", "LlamaForCausalLM"} <= set(names)


def test_other_layers_in_their_places():
    """A list in another order is gone through in that order."""
    model = models.build("llama", dtype=torch.float32, num_hidden_layers=4)
    engine, twin = Engine(copy.deepcopy(model)), copy.deepcopy(model)
    for one in (engine.model, twin):
        layers = one.model.layers
        layers[1], layers[2] = layers[2], layers[1]
    assert ours(engine) == stock(twin)
    for one in (engine.model, twin):
        layer = copy.deepcopy(twin.model.layers[3])
        layer.self_attn.layer_idx, layer.self_attn.config = 0, one.config
        one.model.layers[0] = layer
    assert ours(engine) == stock(twin) != stock(model)


def test_what_released_weights_hold_cannot_be_touched():
    engine = Engine(models.build("llama", dtype=torch.float32))
    model, want = engine.model, ours(engine)
    linear = model.model.layers[0].mlp.up_proj
    weight = linear.weight
    assert weight.shape == (32, 24) and weight.dtype == torch.float32
    others = torch.ones(32, 24)
    ways = [
        lambda: weight.mul_(2), lambda: weight.data.mul_(2), lambda: weight.norm(),
        lambda: setattr(weight, "data", others), lambda: weight.copy_(others),
        lambda: weight.data.copy_(others), lambda: nn.init.normal_(weight),
        lambda: torch._foreach_mul_([weight], 2.0), lambda: weight.__setitem__(0, 1.0),
        lambda: model.half(), lambda: copy.deepcopy(linear), lambda: weight + 1,
        lambda: linear.load_state_dict({"weight": others}),
        lambda: model.load_state_dict({}, strict=False),
        lambda: parametrize.register_parametrization(linear, "weight", Doubled()),
    ]  # fmt: skip
    for way in ways[:9] + ways[10:]:
        with torch.no_grad(), pytest.raises(SpecdecError, match="restore"):
            way()
    model.to("cpu").float()
    assert ours(engine) == want
    with pytest.raises(SpecdecError, match="restore"):
        model.half()
    with pytest.raises(SpecdecError):
        ours(engine)


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.mul_(-1.0),
        lambda w: w.data.mul_(-1.0),
        lambda w: setattr(w, "data", -w.data),
        lambda w: w.index_fill_(0, torch.tensor([3]), 0.5),
    ],
)
def test_an_embedding_that_is_the_head_too(change):
    """There is one copy for both, in panels, which is not changed behind their backs."""
    model = models.build("llama", dtype=torch.float32, tie_word_embeddings=True)
    model.tie_weights()
    engine = Engine(copy.deepcopy(model))
    assert ours(engine) == stock(model) and engine.target.can_choose
    weight = engine.model.get_input_embeddings().weight
    assert weight is engine.model.get_output_embeddings().weight
    with torch.no_grad(), pytest.raises(SpecdecError, match="restore"):
        change(weight)
    assert ours(engine) == stock(model)
    engine.model.get_input_embeddings().weight = nn.Parameter(-model.lm_head.weight)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    model.model.embed_tokens.weight = nn.Parameter(-model.lm_head.weight)
    assert ours(engine) == stock(model)


def test_what_was_there_before_is_kept():
    """Hooks, patches and adapters of a model that an engine is made from."""
    for name in ("hook on an MLP", "patched MLP", "patched linear", "patched layer", "adapter"):
        model = models.build("llama", dtype=torch.float32)
        CHANGES[name](model)
        want = stock(model)
        engine = Engine(model)
        assert ours(engine) == want, name
        engine.packing.restore()
        model.set_attn_implementation("eager")
        assert stock(model) == want, name


def test_what_was_done_since_outlives_the_packing():
    for name in ("hook on an MLP", "patched MLP", "patched linear", "patched layer", "adapter"):
        engine = Engine(models.build("llama", dtype=torch.float32))
        CHANGES[name](engine.model)
        want = ours(engine)
        engine.packing.restore()
        engine.model.set_attn_implementation("eager")
        assert stock(engine.model) == want, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["packed", "as it is"])
def test_attention_that_is_not_ours_is_an_error(dtype):
    """Else a layer would see only the tokens of its pass."""
    engine = Engine(models.build("llama", dtype=dtype))
    want = ours(engine)
    engine.model.set_attn_implementation("eager")
    if dtype == torch.float64:
        with pytest.raises(SpecdecError, match="set_attn_implementation"):
            ours(engine)
    else:  # fused layers do not ask
        assert ours(engine) == want
    engine.model.set_attn_implementation("specdec")
    assert ours(engine) == want
    layer = engine.model.model.layers[1]
    layer.self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(SpecdecError, match=r"layers \[1\]"):
        ours(engine)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.model.layers.pop(1),
        lambda m: setattr(m.config, "num_hidden_layers", 1),
        lambda m: m.resize_token_embeddings(50),
        lambda m: m.train(),
    ],
)
def test_what_cannot_be_followed_is_an_error(change):
    engine = Engine(models.build("llama", dtype=torch.float64))
    change(engine.model)
    with pytest.raises(SpecdecError, match="make a new Engine|training mode"):
        ours(engine)


def test_drafts_of_a_changed_target():
    """Early exits and low precision share its parts: the text is the changed model's own."""
    model = models.build("llama", dtype=torch.float32)
    engine, twin = Engine(copy.deepcopy(model)), copy.deepcopy(model)
    settings = [
        {"drafter": "quest", "draft_layers": 1, "budget": 40, "sink": 2, "recent": 2},
        {"drafter": "quest", "draft_weights": "int8", "budget": 40, "sink": 2, "recent": 2},
    ]
    for kwargs in settings:
        ours(engine, **kwargs)
    for one in (engine.model, twin):
        CHANGES["adapter"](one)
        CHANGES["weight.sub_"](one)
    want = stock(twin)
    for kwargs in [*settings, {"drafter": "ngram", "min_ngram": 1}]:
        assert ours(engine, **kwargs) == want


def test_two_engines_of_one_model():
    """They share its packing."""
    model = models.build("llama", dtype=torch.float32)
    first, second = Engine(model), Engine(model)
    want = ours(first)
    assert first.packing is second.packing and ours(second) == want
    CHANGES["hook on an MLP"](model)
    assert ours(first) == ours(second) != want


class Counts(ModelHook):
    """What accelerate calls in place of a module's forward."""

    calls = 0

    def pre_forward(self, module, *args, **kwargs):
        self.calls += 1
        return args, kwargs


def test_hooks_of_accelerate():
    engine, counts = Engine(models.build("llama", dtype=torch.float32)), Counts()
    want = ours(engine)
    mlp = engine.model.model.layers[1].mlp
    add_hook_to_module(mlp, counts)
    add_hook_to_module(mlp.up_proj, counts)
    assert ours(engine) == want and counts.calls == 2 * (NEW + 1)
    remove_hook_from_module(mlp, recurse=True)
    assert ours(engine) == want and counts.calls == 2 * (NEW + 1)


@pytest.mark.parametrize("part", ["mlp", "layer", "forward"])
def test_parts_that_are_compiled(part):
    """PyTorch compiles around our kernels."""
    torch._dynamo.reset()
    model = models.build("llama", dtype=torch.float32)
    engine, layer = Engine(model), model.model.layers[0]
    want = ours(engine)
    if part == "mlp":
        layer.mlp = torch.compile(layer.mlp, backend="eager")
    elif part == "layer":
        layer.compile(backend="eager")
    else:
        model.forward = torch.compile(model.forward, backend="eager")
    assert ours(engine) == want
    torch._dynamo.reset()
