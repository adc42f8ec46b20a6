"""Where and in what precision a model computes: `device` and `dtype` arguments made definite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from specdec.errors import InvalidArgument

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


_DEVICES = ("cpu", "cuda")
ACTIVATIONS = ("auto", "float32", "int8")


def check_device(place: torch.device) -> None:
    """Raise InvalidArgument for a device that there are no kernels for."""
    if place.type not in _DEVICES:
        raise InvalidArgument(
            f"device={str(place)!r} is not supported: specdec runs on {' and '.join(_DEVICES)}; "
            "give device='cpu'"
        )


def main_device(placed: Mapping[str, Any]) -> torch.device:
    """The device that computes, of a model spread by a device map: its first GPU, else the CPU."""
    gpus = sorted(str(torch.device(x)) for x in placed.values() if str(x) not in ("cpu", "disk"))
    return torch.device(gpus[0] if gpus else "cpu")


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that `device` names; "auto" is CUDA if there is one, else the CPU.

    Raises InvalidArgument for one that is unknown, not supported, or not here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        raise InvalidArgument(f"device={device!r} is unknown: give auto, cpu or cuda") from None
    check_device(place)
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise InvalidArgument(
            f"device={str(place)!r}, but PyTorch sees {torch.cuda.device_count()} CUDA devices: "
            "give device='cpu', or install a PyTorch build for this machine's GPU"
        )
    return place


def check_activations(activations: str) -> None:
    """Raise InvalidArgument for what is no precision of activations."""
    if activations not in ACTIVATIONS:
        raise InvalidArgument(
            f"activations={activations!r} is unknown: give {', '.join(ACTIVATIONS)}"
        )


def no_integers(why: str) -> InvalidArgument:
    """The error for activations in 8 bits where they cannot be."""
    return InvalidArgument(
        f"activations='int8' is for the quantised weights of a GGUF on a CPU, and {why}; or give "
        "activations='auto'"
    )


def for_far_keys(activations: str) -> str:
    """The precision of activations where keys and values lie on other tiers: what reads them there
    sums in an order that differs from pass to pass, which rounding would show.

    Raises InvalidArgument for "int8".
    """
    if activations == "int8":
        raise InvalidArgument(
            "activations='int8' is for keys and values on the device, and kv_tier or link put them "
            "elsewhere: leave out one of them"
        )
    return "float32" if activations == "auto" else activations


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype | None:
    """The dtype to compute in on `device`; None stands for the checkpoint's own.

    "auto" is float32 on the CPU, where 16-bit arithmetic is slow or emulated on many machines and
    float32 makes greedy text reproducible, and the checkpoint's own dtype elsewhere. In what form
    weights are read there is another matter: see `loader.load`.
    """
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else None
    kind = DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if kind not in DTYPES.values():
        raise InvalidArgument(f"dtype={dtype!r} is unknown: give auto, {', '.join(DTYPES)}")
    return kind
