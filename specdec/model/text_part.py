"""The text part of a model: what holds its decoder layers, and copies that share all else."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedModel


def decoder_of(model: PreTrainedModel) -> Any:
    """The module that holds the decoder layers: beside it may stand a tower for images."""
    is_text = model.config.get_text_config() is model.config
    return model.base_model if is_text else model.get_decoder()


def layers_of(model: PreTrainedModel) -> nn.ModuleList | None:
    """The decoder layers, or None where they stand in no list."""
    layers = getattr(decoder_of(model), "layers", None)
    return layers if isinstance(layers, nn.ModuleList) else None


def with_decoder(model: PreTrainedModel, decoder: nn.Module) -> PreTrainedModel:
    """A copy of `model` that runs another decoder and shares everything else."""
    return _replaced(model, decoder_of(model), decoder)


def shallow(module: Any) -> Any:
    """A copy that shares parameters and children, whose children can be replaced."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    vars(twin).pop("__deepcopy__", None)  # of a packed model: it would copy that one
    return twin


def _replaced(module: Any, old: nn.Module, new: nn.Module) -> Any:
    """A copy of `module` with `new` for `old`, somewhere inside."""
    twin = shallow(module)
    for name, child in module.named_children():
        if child is old:
            twin._modules[name] = new
            return twin
        if any(part is old for part in child.modules()):
            twin._modules[name] = _replaced(child, old, new)
            return twin
    raise LookupError("the decoder is no part of its model")
