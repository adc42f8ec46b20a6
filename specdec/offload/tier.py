"""Tiers: where the keys and values of one layer lie - on the device, in host memory, on disk."""

from __future__ import annotations

from time import perf_counter
from typing import Protocol

import torch
from torch import Tensor

from specdec.cache.level import paged
from specdec.offload.balance import Balance
from specdec.offload.budget import Budget
from specdec.offload.pace import Pace


class Tier(Protocol):
    """A place for buffers `[rows, Hkv, capacity, D]`, and the way from there to the device."""

    @property
    def name(self) -> str: ...

    def empty(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A buffer of `like`'s type in this place: a tensor that can be written and gathered from.

        Raises OutOfMemory where there is no room.
        """

    def is_remote(self, device: torch.device) -> bool:
        """Whether attention on `device` cannot read the buffers where they lie."""

    def fetch(self, buffer: Tensor, row: int, start: int, end: int, out: Tensor) -> None:
        """Copy tokens `start .. end` of a row to `out[Hkv, end - start, D]`, which is contiguous
        and lies on the device, or in host memory on its way there."""

    def gather(self, buffer: Tensor, row: int, heads: Tensor, pages: Tensor, out: Tensor) -> None:
        """Copy pages of a row, each of one head, to `out[n, size, D]`, which lies as for `fetch`;
        `heads, pages: int64[n]`."""

    def landing(self, shape: tuple[int, ...], like: Tensor, device: torch.device) -> Tensor:
        """A tensor of `like`'s type for `fetch` and `gather` to fill, on its way to `device`."""


class DeviceTier:
    """The device's own memory."""

    name = "device"

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def empty(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return self.budget.empty(shape, like.dtype, like.device)

    def is_remote(self, device: torch.device) -> bool:
        return False

    def fetch(self, buffer: Tensor, row: int, start: int, end: int, out: Tensor) -> None:
        out.copy_(buffer[row, :, start:end])

    def gather(self, buffer: Tensor, row: int, heads: Tensor, pages: Tensor, out: Tensor) -> None:
        out.copy_(paged(buffer, row, out.shape[1])[heads.to(out.device), pages.to(out.device)])

    def landing(self, shape: tuple[int, ...], like: Tensor, device: torch.device) -> Tensor:
        return like.new_empty(shape, device=device)


class HostTier:
    """Host memory: pinned where the device is a GPU, and the device's own where that is the CPU.

    streams: fetch through staging buffers also where the CPU could read in place, as a GPU must;
    with a pace it stands for a link of that rate. balance: decides between the two, and keeps that
    pace.
    """

    name = "host"

    def __init__(
        self, budget: Budget, balance: Balance | None = None, streams: bool = False
    ) -> None:
        self.budget, self.streams = budget, streams
        self.balance = Balance(Pace()) if balance is None else balance

    def empty(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return self.budget.empty(shape, like.dtype, torch.device("cpu"), pin=like.is_cuda)

    def is_remote(self, device: torch.device) -> bool:
        return device.type != "cpu" or self.streams

    def fetch(self, buffer: Tensor, row: int, start: int, end: int, out: Tensor) -> None:
        started = perf_counter()
        out.copy_(buffer[row, :, start:end], non_blocking=True)
        if not out.is_cuda:
            self.balance.pace.after(out.nbytes, started)

    def gather(self, buffer: Tensor, row: int, heads: Tensor, pages: Tensor, out: Tensor) -> None:
        started = perf_counter()
        out.copy_(paged(buffer, row, out.shape[1])[heads.cpu(), pages.cpu()], non_blocking=True)
        if not out.is_cuda:
            self.balance.pace.after(out.nbytes, started)

    def landing(self, shape: tuple[int, ...], like: Tensor, device: torch.device) -> Tensor:
        return like.new_empty(shape, device=device)
