"""Memory: how much of each kind is free, and sizes as people write them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import torch

from specdec.errors import InvalidArgument
from specdec.offload.disk_folder import disk_folder, memory_kind

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
          "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
          "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*")


def parse_bytes(size: str | int, argument: str) -> int:
    """Bytes of "22GiB", "800MB" or a number; raises InvalidArgument that names `argument`."""
    if isinstance(size, int):
        if size < 0:
            raise InvalidArgument(f"{argument}={size} is negative")
        return size
    found = _SIZE.fullmatch(size.lower())
    if found is None or found[2] not in _UNITS:
        raise InvalidArgument(f"{argument}={size!r} is no size: write it like 22GiB or 800MB")
    return int(float(found[1]) * _UNITS[found[2]])


def show_bytes(size: float) -> str:
    """As "16.0 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def free_bytes(device: torch.device) -> int:
    """Bytes that can be had on a device now; of host memory, also within a container's limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return min([int(psutil.virtual_memory().available), *_container()])


def free_disk(folder: str | Path | None) -> int:
    """Bytes that can be had in a folder, there or still to be made, or by default in `disk_folder`.
    Files in memory cannot be more than that has free."""
    place = disk_folder(folder).absolute()
    try:
        free = shutil.disk_usage(next(p for p in (place, *place.parents) if p.exists())).free
        return free if memory_kind(place) is None else min(free, free_bytes(torch.device("cpu")))
    except OSError as error:
        raise InvalidArgument(
            f"offload_folder={str(place)!r} cannot be used ({error.strerror}): give another"
        ) from error


def _container() -> list[int]:
    """What a control group (version 2) leaves of its limit, if it has one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return []
    return [] if limit == "max" else [max(0, int(limit) - used)]
