"""The tensors that a processor makes of images and video frames: what is understood, by name."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.errors import InvalidArgument
from specdec.plain import plain

PIXELS = ("pixel_values", "pixel_values_videos")
# What transformers' processors give beside ids and a mask, in all.
NAMES = (
    *PIXELS, "pixel_attention_mask", "image_sizes", "image_sizes_videos", "batch_num_images",
    "image_grid_thw", "video_grid_thw", "second_per_grid_ts", "mm_token_type_ids",
)  # fmt: skip
# How a tower is read, where a caller of `model.generate` says so.
OPTIONS = ("vision_feature_layer", "vision_feature_select_strategy", "vision_aspect_ratio")
_TEXT = ("input_ids", "attention_mask")
TYPES = ("token_type_ids", "mm_token_type_ids")  # of each token: 0 is text


def only_known(given: Mapping[str, Any]) -> None:
    """Raise InvalidArgument for a name among what a processor returned that is not understood."""
    for name, value in given.items():
        if name not in (*_TEXT, *NAMES, *TYPES) and value is not None:
            raise InvalidArgument(
                f"prompt holds {name}, which is not understood: known are "
                f"{', '.join((*_TEXT, *NAMES, *TYPES))}"
            )


def holds_images(given: Mapping[str, Any]) -> bool:
    """Whether what a processor returned holds more than text."""
    return any(given.get(name) is not None for name in PIXELS)


def reads_images(model: PreTrainedModel) -> bool:
    """Whether the model takes images or video frames besides text."""
    return any(name in signature(type(model).forward).parameters for name in PIXELS)


def check(given: Mapping[str, Any], model: PreTrainedModel) -> None:
    """Raise InvalidArgument for a tensor that the model's own `forward` does not take."""
    kind, takes = type(model).__name__, signature(type(model).forward).parameters
    for name, value in given.items():
        if name not in (*NAMES, *OPTIONS) or value is None or name in takes:
            continue
        if name in TYPES and is_zero(value):
            continue
        if not reads_images(model):
            raise InvalidArgument(
                f"{kind} reads text alone and takes no {name}: load a model for images, or leave "
                "the image out"
            )
        raise InvalidArgument(f"{kind} does not take {name}: leave it out")


def text_alone(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a processor returned for text, without what says of it that it is text."""
    kept = {}
    for name, value in given.items():
        if value is None or (name in NAMES and name in TYPES and is_zero(value)):
            continue
        if name in NAMES:
            raise InvalidArgument(
                f"{name} was given and no pixel_values: give all that the processor returned"
            )
        kept[name] = value
    return kept


def is_zero(value: Any) -> bool:
    """Whether a number, or all in a nest of lists, is 0."""
    value = plain(value)
    return all(map(is_zero, value)) if isinstance(value, (list, tuple)) else value in (None, 0)


def as_tensors(given: Mapping[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    """What a processor returned as tensors on the model's device; raises InvalidArgument."""
    made: dict[str, Any] = {}
    for name, value in given.items():
        if value is None or name in OPTIONS:
            continue
        try:
            tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidArgument(
                f"{name} cannot be made a tensor ({error}): have the processor return tensors, "
                "return_tensors='pt'"
            ) from error
        made[name] = tensor.to(model.device)
    return made
