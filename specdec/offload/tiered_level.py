"""TieredLevel: a level whose layers lie in tiers, and what fetches them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from specdec.cache.level import Level
from specdec.offload.staging import Staging
from specdec.offload.tier import Tier

Begin = Callable[[Any, Any, Any], Callable[[], tuple[Tensor, Tensor] | None]]


class TieredLevel(Level):
    """A level with a tier for each layer.

    staging: what remote layers are fetched through, if there are any; stream: begins attention over
    them (`Stream.begin_in`). windows: how many positions a
    layer's queries see, as far as passes have told; it decides what is fetched ahead.
    """

    def __init__(
        self,
        rows: int,
        capacity: int,
        homes: Sequence[Tier],
        staging: Staging | None = None,
        stream: Begin | None = None,
        worker: ThreadPoolExecutor | None = None,
    ) -> None:
        super().__init__(len(homes), rows, capacity)
        self.homes, self.staging, self._stream, self._worker = homes, staging, stream, worker
        self.windows: dict[int, int | None] = {}

    @property
    def worker(self) -> ThreadPoolExecutor:
        """The one thread that fetches, for all levels of a store."""
        assert self._worker is not None
        return self._worker

    def new_buffer(self, layer: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return self.homes[layer].empty(shape, like)

    def another(self, rows: int, capacity: int) -> Level:
        return TieredLevel(rows, capacity, self.homes, self.staging)

    def is_remote(self, layer: int, device: torch.device) -> bool:
        return self.k[layer] is not None and self.homes[layer].is_remote(device)

    def bring(
        self, x: Tensor, layer: int, row: int, start: int, end: int, device: torch.device
    ) -> Tensor:
        tier = self.homes[layer]
        if not tier.is_remote(device):
            return super().bring(x, layer, row, start, end, device)
        out = tier.landing((x.shape[1], end - start, x.shape[3]), x, device)
        tier.fetch(x, row, start, end, out)
        return out.to(device)

    def bring_pages(
        self, x: Tensor, layer: int, row: int, heads: Tensor, pages: Tensor, size: int,
        device: torch.device,
    ) -> Tensor:  # fmt: skip
        tier = self.homes[layer]
        if not tier.is_remote(device):
            return super().bring_pages(x, layer, row, heads, pages, size, device)
        out = tier.landing((len(pages), size, x.shape[3]), x, device)
        tier.gather(x, row, heads, pages, out)
        return out.to(device)

    def begin(self, pass_: Any, call: Any) -> Callable[[], tuple[Tensor, Tensor] | None]:
        assert self._stream is not None
        return self._stream(self, pass_, call)
