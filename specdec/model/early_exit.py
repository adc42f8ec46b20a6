"""Early exit: the first layers of a model as a model of its own, for drafting."""

from __future__ import annotations

import copy

from transformers import PreTrainedModel

from specdec.errors import InvalidArgument, UnsupportedModel
from specdec.model.text_part import decoder_of, layers_of, shallow, with_decoder


def first_layers(model: PreTrainedModel, count: int) -> PreTrainedModel:
    """`model` without its layers after the first `count`; weights are shared, nothing is copied.

    The final norm and the LM head are kept, so the short model gives logits of its own.
    """
    layers = layers_of(model)
    if layers is None or model.base_model is model:
        raise UnsupportedModel(f"{type(model).__name__} has no list of layers to leave early")
    if not 1 <= count < len(layers):
        raise InvalidArgument(
            f"draft_layers={count}: the model has {len(layers)} layers, give 1 to {len(layers) - 1}"
        )
    decoder = shallow(decoder_of(model))
    decoder._modules["layers"] = layers[:count]
    decoder.config = copy.copy(decoder.config)
    decoder.config.num_hidden_layers = count
    return with_decoder(model, decoder)
