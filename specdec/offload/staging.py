"""Staging: two buffers through which remote keys and values come to the device."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.offload.budget import Budget
from specdec.offload.tier import Tier

SLOTS = 2  # one is read while the next is filled


class Slot:
    """Room for the keys and values of one chunk: on the device, and pinned in host memory where
    the way leads from a file to a GPU."""

    def __init__(self, budget: Budget, nbytes: int, device: torch.device) -> None:
        half = (-(-nbytes // 2),)
        self.device = [budget.empty(half, torch.uint8, device) for _ in range(2)]
        self.host: list[Tensor] = []
        if device.type == "cuda":
            self.host = [torch.empty(half, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        self.filled: torch.cuda.Event | None = None
        self.emptied: torch.cuda.Event | None = None


class Staging:
    """Slots of `nbytes` each, or of one token where that is more, made at first use; all chunks of
    a store pass through them."""

    def __init__(self, budget: Budget, nbytes: int) -> None:
        self.budget, self.nbytes = budget, nbytes
        self.slots: list[Slot] = []
        self._stream: torch.cuda.Stream | None = None

    def tokens(self, k: Tensor, v: Tensor) -> int:
        """How many tokens of buffers `[rows, Hkv, C, D]` fit into a slot; at least one."""
        return max(1, self.nbytes // 2 // _widest(k, v))

    def free_slots(self, device: torch.device, buffers: list[tuple[Tensor, Tensor]]) -> list[Slot]:
        """All slots, for a pass that begins and may fetch from any of `buffers`."""
        least = 2 * max((_widest(k, v) for k, v in buffers), default=0)
        if least > self.nbytes:
            self.nbytes, self.slots = least, []
        while len(self.slots) < SLOTS:
            self.slots.append(Slot(self.budget, self.nbytes, device))
        return list(self.slots)

    def fill(
        self, slot: Slot, tier: Tier, k: Tensor, v: Tensor, row: int, start: int, end: int
    ) -> tuple[Tensor, Tensor]:
        """Fetch tokens of a row into a slot: k, v `[1, Hkv, end - start, D]` on the device.

        On a GPU the copy runs beside the computation; `ready` waits for it.
        """
        out = [_shaped(flat, x, end - start) for flat, x in zip(slot.device, (k, v), strict=True)]
        if not out[0].is_cuda:
            for source, target in zip((k, v), out, strict=True):
                tier.fetch(source, row, start, end, target)
        else:
            self._fill_gpu(slot, tier, (k, v), row, start, end, out)
        return out[0][None], out[1][None]

    def _fill_gpu(
        self,
        slot: Slot,
        tier: Tier,
        buffers: tuple[Tensor, Tensor],
        row: int,
        start: int,
        end: int,
        out: list[Tensor],
    ) -> None:
        device = out[0].device
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        if slot.emptied is not None:
            self._stream.wait_event(slot.emptied)
            if tier.name == "disk":
                slot.emptied.synchronize()  # the pinned half is written by this thread
        with torch.cuda.stream(self._stream):
            for i, (source, target) in enumerate(zip(buffers, out, strict=True)):
                if tier.name == "disk":
                    pinned = _shaped(slot.host[i], source, end - start)
                    tier.fetch(source, row, start, end, pinned)
                    target.copy_(pinned, non_blocking=True)
                else:
                    tier.fetch(source, row, start, end, target)
            slot.filled = self._stream.record_event()

    @staticmethod
    def ready(slot: Slot) -> None:
        """Have the current stream wait until the slot is filled."""
        if slot.filled is not None:
            torch.cuda.current_stream(slot.device[0].device).wait_event(slot.filled)

    @staticmethod
    def done(slot: Slot) -> None:
        """Note that the current stream has read the slot."""
        if slot.filled is not None:
            slot.emptied = torch.cuda.current_stream(slot.device[0].device).record_event()


def _widest(k: Tensor, v: Tensor) -> int:
    """Bytes of a token's keys or values, whichever are more."""
    return max(x.shape[1] * x.shape[3] * x.element_size() for x in (k, v))


def _shaped(flat: Tensor, like: Tensor, tokens: int) -> Tensor:
    """The start of a flat buffer as `[Hkv, tokens, D]` of `like`'s type."""
    shape = (like.shape[1], tokens, like.shape[3])
    nbytes = like.element_size() * shape[0] * shape[1] * shape[2]
    return flat[:nbytes].view(like.dtype).view(shape)
