"""Ranks: processes that hold parts of one model, and what they must agree on.

transformers splits the heads of a model among the processes of `torchrun` or `accelerate launch`;
each then runs the same rounds on its own part. Noise depends on seed, prompt, sample and position
alone and logits are the same on all ranks, so all that must be told is what comes from a clock or a
generator of one process.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from specdec.errors import InvalidArgument, UnsupportedModel

T = TypeVar("T")


def world_size() -> int:
    """Processes that were launched together; 1 for a single one."""
    try:
        return int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        return 1


def join(device: torch.device) -> None:
    """Meet the other processes, once."""
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def is_split(model: PreTrainedModel) -> bool:
    """Whether this process holds only a part of the model's weights."""
    return getattr(model, "_tp_size", None) not in (None, 1) or any(
        hasattr(parameter, "placements") for parameter in model.parameters()
    )


def check_split(config: Any, ranks: int) -> None:
    """Raise UnsupportedModel unless the heads of a model can be divided among so many ranks."""
    config = config.get_text_config()
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if kv_heads % ranks:
        fits = [n for n in range(1, kv_heads + 1) if kv_heads % n == 0]
        raise UnsupportedModel(
            f"{kv_heads} key-value heads cannot be divided among {ranks} processes: start "
            f"{' or '.join(map(str, fits))} of them"
        )


def split_options(ranks: int) -> dict[str, Any]:
    """What `from_pretrained` has to be told to split a model by its own plan."""
    try:
        DistributedConfig: Any = import_module("transformers.distributed").DistributedConfig
    except (ImportError, AttributeError):
        return {"tp_plan": "auto"}
    try:
        return {"distributed_config": DistributedConfig(tp_size=ranks, tp_plan="auto")}
    except TypeError:  # of an earlier release, where it says other things
        return {"tp_plan": "auto"}


def agreed(is_parallel: bool, value: T) -> T:
    """What the first rank says, on all ranks of a split model; else the value itself."""
    if not is_parallel or not dist.is_initialized():
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def check_device(device: torch.device, ranks: int) -> torch.device:
    """This process's device among `ranks`: a GPU of its own, or the CPU they share."""
    if device.type != "cuda":
        return device
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise InvalidArgument(
            f"{ranks} processes were started, and PyTorch sees {torch.cuda.device_count()} GPUs: "
            "start one process a GPU"
        )
    return torch.device("cuda", local)


def leave() -> None:
    """Part from the other processes, if they were met."""
    if dist.is_initialized():
        dist.destroy_process_group()
