"""Budget: bytes that keys and values may take of one kind of memory."""

from __future__ import annotations

import threading
import weakref

import torch
from torch import Tensor

from specdec.errors import OutOfMemory


class Budget:
    """Counts buffers where they are made, and again when they are freed.

    limit: bytes, or None for no bound. `peak` is the most that was held at one time. Raises
    OutOfMemory, before anything is allocated, where a buffer would pass the limit.
    """

    def __init__(self, name: str, limit: int | None = None) -> None:
        self.name, self.limit = name, limit
        self.used = self.peak = 0
        self._lock = threading.Lock()

    def empty(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, pin: bool = False
    ) -> Tensor:
        """An uninitialised tensor that counts until it is freed."""
        nbytes = dtype.itemsize * torch.Size(shape).numel()
        self.take(nbytes)
        try:
            tensor = torch.empty(shape, dtype=dtype, device=device, pin_memory=pin)
        except BaseException:
            self.give(nbytes)
            raise
        weakref.finalize(tensor, self.give, nbytes)
        return tensor

    def take(self, nbytes: int) -> None:
        """Count `nbytes` more; raises OutOfMemory if they are not there."""
        with self._lock:
            if self.limit is not None and self.used + nbytes > self.limit:
                raise OutOfMemory(
                    f"{self.name} memory for keys and values: {self.used:,} of {self.limit:,} "
                    f"bytes are taken, and {nbytes:,} more are needed; allow more of it "
                    "(max_memory=), shorten the prompt or max_new_tokens, or put the KV on another "
                    "tier (kv_tier=)"
                )
            self.used += nbytes
            self.peak = max(self.peak, self.used)

    def give(self, nbytes: int) -> None:
        """Count `nbytes` less."""
        with self._lock:
            self.used -= nbytes
