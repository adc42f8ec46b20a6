"""An engine of a model's shape with random weights."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from specdec.engine import Engine
from specdec.offload.plan import config_of
from specdec.placement import resolve_device, resolve_dtype


def random_engine(model: str, dtype: str, device: str) -> Engine:
    """An engine of a model's shape (see `plan.config_of`) with random weights, to time passes of.

    Raises WeightsError where the configuration cannot be had.
    """
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place) or torch.bfloat16
    config = config_of(model)
    with torch.device(place):
        made = AutoModelForCausalLM.from_config(config, dtype=kind)
    return Engine(made.requires_grad_(False), name=f"{model}, random weights")
