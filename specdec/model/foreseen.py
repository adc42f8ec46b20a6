"""foreseen: whether all layers of a model can be fused, told before it has any weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from specdec.cache.kv_shape import KVShape
from specdec.forward.attention_call import AttentionCall
from specdec.kernels.linear.decoder_run import LANES
from specdec.model.fused_layer import NoMatch, recognise
from specdec.model.text_part import decoder_of, layers_of


def why_bits_vary(model: PreTrainedModel, is_stored: Callable[[str], bool]) -> str:
    """Why `Packing.keeps_bits` will not hold for a model, or "" where nothing speaks against it.

    model: on the meta device, so that only its parts count, not its numbers: a layer may still turn
    out to differ from its fused form. is_stored: whether a linear layer's weight will be in blocks
    as stored, by the layer's name; the head's is asked for where it has one of its own.
    """
    layers, config = layers_of(model), model.config.get_text_config()
    if layers is None:
        return "its layers stand in no list"
    shape = KVShape.of(model.config, torch.float32)
    if shape.head_dim % LANES:
        return f"heads of {shape.head_dim} fill no vectors of {LANES}"
    text, head = {*decoder_of(model).modules()}, model.get_output_embeddings()
    for name, module in model.named_modules():
        is_own = module in text or (module is head and not config.tie_word_embeddings)
        if type(module) is nn.Linear and is_own and not is_stored(name):
            return f"{name} is not in blocks that are multiplied so"
    q = torch.empty(1, config.num_attention_heads, 0, shape.head_dim)
    k = torch.empty(1, shape.kv_heads, 0, shape.head_dim)
    call = AttentionCall(0, q, k, k, scale=1.0)
    for index, layer in enumerate(layers):
        twin = _with_norms(layer)
        weights: dict[nn.Module, Any] = {
            module: _Sketch(module.out_features, module.in_features)
            for module in twin.modules() if type(module) is nn.Linear
        }  # fmt: skip
        try:
            recognise(twin, call, weights)
        except NoMatch as error:
            return f"layer {index} is not fused: {error}"
    return ""


@dataclass(frozen=True)
class _Sketch:
    """What a `PanelWeight` says of its shape."""

    outputs: int
    inputs: int

    def rows(self, start: int, stop: int) -> _Sketch:
        return _Sketch(stop - start, self.inputs)


def _with_norms(layer: nn.Module) -> nn.Module:
    """A copy of a layer on the meta device whose vectors have numbers, as norms are tried out."""
    twin = copy.deepcopy(layer)
    for module in twin.modules():
        for name, x in module._parameters.items():
            if x is not None and x.dim() == 1:
                numbers = torch.linspace(0.5, 1.5, x.numel())
                module._parameters[name] = nn.Parameter(numbers, requires_grad=False)
    return twin
