"""StoreMaker: who makes stores where keys and values may lie elsewhere than on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from specdec.cache.kv_shape import KVShape
from specdec.cache.store import KVStore


class StoreMaker(Protocol):
    """What a `Target` asks of `offload.KVMemory`, which an `Engine` gives it."""

    def has_room(self, shape: KVShape, tokens: int, device: torch.device) -> bool:
        """Whether keys and values of so many tokens may all lie on the device."""

    def store(
        self,
        shape: KVShape,
        sequences: int,
        capacity: int,
        device: torch.device,
        later: Sequence[tuple[int, int]] = (),
    ) -> KVStore:
        """An empty store; `later` says rows and capacity of levels that will be pushed.

        Raises OutOfMemory where its keys and values fit nowhere they may lie.
        """
