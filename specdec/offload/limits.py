"""Limits: what weights leave of the memory that a user allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from specdec.errors import InvalidArgument, OutOfMemory
from specdec.model.released import InPanels
from specdec.offload.kv_memory import KVMemory
from specdec.offload.memory import parse_bytes, show_bytes

if TYPE_CHECKING:
    from specdec.model.target import Target

WORK_BYTES = 1 << 30  # of a GPU, for activations, logits and the allocator's own needs
KV_SHARE = 0.15  # of a GPU that weights are to leave free when a device map is made


def kv_memory_of(
    target: Target,
    kv_tier: str | Sequence[str] | KVMemory,
    max_memory: Mapping[int | str, int | str] | None,
    folder: str | Path | None,
) -> KVMemory:
    """The memory for a loaded model's keys and values: what `max_memory` allows, less its weights.

    Raises OutOfMemory where the weights alone take it all, InvalidArgument for a bad argument.
    """
    if isinstance(kv_tier, KVMemory):
        return kv_tier
    limits = parsed(max_memory)
    device = target.device
    mine: int | str = "cpu" if device.type == "cpu" else device.index or 0
    here = limits.get(mine)
    if here is not None:
        weights = weight_bytes(target, device)
        taken = weights + (0 if device.type == "cpu" else WORK_BYTES)
        if taken >= here:
            raise OutOfMemory(
                f"max_memory allows {show_bytes(here)} on {device}, and the weights "
                f"take {show_bytes(weights)} of it: allow more, use smaller weights, or spread "
                "them (device_map='auto')"
            )
        here -= taken
    there = limits.get("cpu") if device.type != "cpu" else None
    if there is not None:
        there = max(0, there - weight_bytes(target, torch.device("cpu")))
    return KVMemory(kv_tier, here, there, folder)


def weights_limits(
    max_memory: Mapping[int | str, int | str] | None,
) -> dict[int | str, int] | None:
    """What accelerate may fill with weights, so that keys and values have a share of each GPU."""
    if max_memory is None:
        return None
    return {
        place: limit if isinstance(place, str) else int((1 - KV_SHARE) * limit)
        for place, limit in parsed(max_memory).items()
    }


def parsed(max_memory: Mapping[int | str, int | str] | None) -> dict[int | str, int]:
    """Bytes by device; keys are GPU numbers and "cpu", as accelerate has them."""
    limits: dict[int | str, int] = {}
    for place, size in (max_memory or {}).items():
        if not isinstance(place, int) and place != "cpu":
            raise InvalidArgument(
                f"max_memory has a key {place!r}: give GPU numbers and 'cpu', as in "
                "{0: '22GiB', 'cpu': '60GiB'}"
            )
        limits[place] = parse_bytes(size, f"max_memory[{place!r}]")
    return limits


def weight_bytes(target: Target, device: torch.device) -> int:
    """Bytes of parameters and packed weights that a model holds on a device."""
    sizes: dict[int, int] = {}
    tensors: list[Any] = [*target.model.parameters(), *target.model.buffers()]
    for tensor in tensors:
        if tensor.device == device and tensor.numel() and not isinstance(tensor, InPanels):
            sizes[tensor.data_ptr()] = tensor.nbytes
    total = sum(sizes.values())
    if target.packing is not None and device.type == "cpu":
        total += target.packing.memory
    return total
