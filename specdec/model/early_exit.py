"""Early exit: the first layers of a model as a model of its own, for drafting."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from specdec.errors import InvalidArgument, UnsupportedModel


def first_layers(model: PreTrainedModel, count: int) -> PreTrainedModel:
    """`model` without its layers after the first `count`; weights are shared, nothing is copied.

    The final norm and the LM head are kept, so the short model gives logits of its own.
    """
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or model.base_model is model:
        raise UnsupportedModel(f"{type(model).__name__} has no list of layers to leave early")
    if not 1 <= count < len(layers):
        raise InvalidArgument(
            f"draft_layers={count}: the model has {len(layers)} layers, give 1 to {len(layers) - 1}"
        )
    base: Any = shallow(model.base_model)
    base._modules["layers"] = layers[:count]
    base.config = copy.copy(base.config)
    base.config.num_hidden_layers = count
    short: PreTrainedModel = shallow(model)
    short._modules[model.base_model_prefix] = base
    return short


def shallow(module: Any) -> Any:
    """A copy that shares parameters and children, whose children can be replaced."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    vars(twin).pop("__deepcopy__", None)  # of a packed model: it would copy that one
    return twin
