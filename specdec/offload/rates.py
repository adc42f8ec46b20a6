"""Rates: how many bytes a second each kind of memory gives, measured or assumed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from specdec.errors import InvalidArgument
from specdec.offload.disk import DiskTier
from specdec.offload.disk_folder import disk_folder
from specdec.offload.memory import free_disk

_SIZE = 128 << 20
_REPEATS = 3
ASSUMED_DEVICE = 1.0e12  # bytes/s: an RTX 4090
ASSUMED_LINK = 25e9  # PCIe 4.0 x16 with pinned memory


@dataclass(frozen=True)
class Rates:
    """Bytes per second out of device memory, over the link from host memory, and from disk.

    measured, given: which of the three were; the others are assumed.
    """

    device: float
    link: float
    disk: float
    measured: tuple[str, ...] = ()
    given: tuple[str, ...] = ()

    def source(self, name: str) -> str:
        """Where a rate comes from, in a word."""
        if name in self.measured:
            return "measured"
        return "given" if name in self.given else "assumed"


def measure(folder: str | Path | None, device: torch.device | None) -> Rates:
    """Measure what is here. device: None for a GPU that is not, whose rates are then assumed."""
    measured = ["disk"]
    disk = disk_rate(folder)
    if device is None:
        return Rates(ASSUMED_DEVICE, ASSUMED_LINK, disk, tuple(measured))
    return Rates(memory_rate(device), link_rate(device), disk, ("device", "link", "disk"))


def memory_rate(device: torch.device) -> float:
    """Bytes per second that a sum over a large tensor reads."""
    x = torch.ones(_SIZE // 4, device=device)
    return _SIZE / _fastest(lambda: x.sum(), device)


def link_rate(device: torch.device) -> float:
    """Bytes per second from host memory: over the bus to a GPU, or as the CPU copies."""
    source = torch.ones(_SIZE // 4, pin_memory=device.type == "cuda")
    target = torch.empty(_SIZE // 4, device=device)
    return _SIZE / _fastest(lambda: target.copy_(source, non_blocking=True), device)


def disk_rate(folder: str | Path | None) -> float:
    """Bytes per second that a file in `folder` is read with, past the system's cache if it can be
    had out of the way. Raises InvalidArgument for a folder that cannot be written."""
    size = min(_SIZE, free_disk(folder) // 2)
    if size < 1 << 20:
        raise InvalidArgument(f"offload_folder={str(disk_folder(folder))!r} is full")
    tier = DiskTier(folder)
    heads, dim = 8, 128
    tokens = size // (heads * dim * 2)
    buffer = tier.empty((1, heads, tokens, dim), torch.empty(0, dtype=torch.bfloat16))
    buffer.fill_(1.0)
    out = torch.empty(heads, tokens, dim, dtype=torch.bfloat16)
    tier.forget_cache()
    start = perf_counter()
    tier.fetch(buffer, 0, 0, tokens, out)
    return out.nbytes / (perf_counter() - start)


def _fastest(work: object, device: torch.device) -> float:
    times = []
    for _ in range(1 + _REPEATS):
        start = perf_counter()
        work()  # type: ignore[operator]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(perf_counter() - start)
    return min(times[1:])
