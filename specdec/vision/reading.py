"""Reading: what a caller gives as a prompt with images, as Prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.errors import InvalidArgument
from specdec.sampling.prompt import Prompt
from specdec.vision.encoder_cache import EncoderCache
from specdec.vision.inputs import (
    NAMES,
    OPTIONS,
    TYPES,
    as_tensors,
    check,
    holds_images,
    only_known,
    text_alone,
)
from specdec.vision.spans import prompts_of
from specdec.vision.witness import handed, handed_in


def read_processed(
    given: Mapping[str, Any], model: PreTrainedModel, cache: EncoderCache | None = None
) -> Any:
    """What a processor returned: a list of `Prompt`s where it holds images, or one where its ids
    are of one dimension; else the same without what only says that all of it is text.

    cache: of what the model's tower has made before. Raises InvalidArgument for a tensor that the
    model does not take, and with what the model has to say of tensors that do not fit each other.
    """
    check(given, model)
    if not holds_images(given):
        return text_alone(given)
    only_known(given)
    if isinstance(given.get("input_ids"), str):
        raise InvalidArgument(
            "tensors of images were given beside a text: give all that the processor returned, its "
            "input_ids among it, or chat messages that hold the images"
        )
    inputs = as_tensors(given, model)
    ids = inputs.get("input_ids")
    if ids is None or ids.dim() not in (1, 2) or not ids.numel():
        raise InvalidArgument(
            "images were given without input_ids: give all that the processor returned"
        )
    is_list = ids.dim() == 2
    for name in ("input_ids", "attention_mask", *TYPES):
        if name in inputs and inputs[name].dim() == 1:
            inputs[name] = inputs[name][None]
    _check_ids(inputs["input_ids"], model)
    seen = handed(model, inputs, EncoderCache() if cache is None else cache)
    prompts = prompts_of(model, inputs["input_ids"], inputs.get("attention_mask"), inputs, seen)
    return prompts if is_list else prompts[0]


def read_prepared(
    input_ids: Tensor,
    prepared: Mapping[str, Any],
    given: Mapping[str, Any],
    model: PreTrainedModel,
    copies: int,
) -> list[Prompt]:
    """The prompts of a call that `model.generate` has prepared: `input_ids[B, n]`, each row of the
    caller's `copies` times. given: as the caller gave it; prepared: what the model is called with.
    """
    check(given, model)
    _check_ids(input_ids, model)
    seen = handed_in(model, input_ids, prepared).every(copies)
    mask, inputs = given.get("attention_mask"), _of_images(given, model)
    ids = input_ids[::copies]
    whole = prompts_of(model, ids, None if mask is None else torch.as_tensor(mask), inputs, seen)
    return [prompt for prompt in whole for _ in range(copies)]


def _of_images(given: Mapping[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    """What tells the images of a call from others."""
    tensors = {name: value for name, value in given.items() if name in NAMES}
    options = {name: given[name] for name in OPTIONS if name in given}
    return {**as_tensors(tensors, model), **options}


def _check_ids(ids: Tensor, model: PreTrainedModel) -> None:
    size = int(model.config.get_text_config().vocab_size)
    outside = ids[(ids < 0) | (ids >= size)]
    if len(outside):
        raise InvalidArgument(
            f"input_ids hold {int(outside[0])}, which is no token id from 0 to {size - 1}"
        )
