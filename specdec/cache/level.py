"""Level: contiguous keys and values of some rows, in every layer."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from specdec.cache.beside import Beside


class Level:
    """Contiguous `k, v: [rows, Hkv, capacity, D]` for every layer, and how much of each row counts.

    Buffers are made at the first write to a layer, from the shapes the model really produces.
    `length: int32[rows]` is the host's, which decides by it; `resize` and `extend` change it, and
    `lengths_on` gives a device its copy. beside: what methods keep of its rows, by all
    that tells one such thing from another.
    """

    def __init__(self, num_layers: int, rows: int, capacity: int) -> None:
        self.rows, self.capacity = rows, capacity
        self.length = torch.zeros(rows, dtype=torch.int32)
        self._near: dict[torch.device, Tensor] = {}
        self._moved: set[torch.device] = set()  # whose copies speak of other lengths
        self.k: list[Tensor | None] = [None] * num_layers
        self.v: list[Tensor | None] = [None] * num_layers
        self.beside: dict[Hashable, Beside] = {}

    def crop(self, row: int, length: int) -> None:
        """Forget committed tokens of `row` past `length`, in place."""
        self.resize(row, length)
        for kept in self.beside.values():
            kept.crop(row, length)

    def resize(self, row: int, length: int) -> None:
        """Say that `row` has `length` committed tokens, in place."""
        self.length[row] = length
        self._moved.update(self._near)

    def extend(self, row: int, count: int) -> None:
        """Take up `count` more tokens of `row` as committed, in place."""
        self.length[row] += count
        self._moved.update(self._near)

    def lengths_on(self, device: torch.device) -> Tensor:
        """`length` on a device: the same tensor, at the same address, for as long as the level is.

        A copy is brought up to date when it is asked for; no one waits for that. The host's memory
        is pageable, so the driver has taken the numbers when the call returns.
        """
        if device == self.length.device:
            return self.length
        known = self._near.get(device)
        if known is None:
            known = self._near[device] = self.length.to(device, non_blocking=True, copy=True)
        elif device in self._moved:
            known.copy_(self.length, non_blocking=True)
        self._moved.discard(device)
        return known

    def buffers(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """This layer's (k, v), made after the shapes of `k, v: [B, Hkv, n, D]` if need be."""
        keys, values = self.k[layer], self.v[layer]
        if keys is None or values is None:
            keys, values = (
                self.new_buffer(layer, (self.rows, x.shape[1], self.capacity, x.shape[-1]), x)
                for x in (k, v)
            )
            self.k[layer], self.v[layer] = keys, values
        return keys, values

    def new_buffer(self, layer: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A buffer for one layer, where this level keeps them: beside `like`."""
        return like.new_empty(shape)

    def another(self, rows: int, capacity: int) -> Level:
        """An empty level of this kind, for other rows."""
        return Level(len(self.k), rows, capacity)

    def is_remote(self, layer: int, device: torch.device) -> bool:
        """Whether attention on `device` must have this layer's keys and values fetched."""
        return False

    def bring(
        self, x: Tensor, layer: int, row: int, start: int, end: int, device: torch.device
    ) -> Tensor:
        """Tokens `start .. end` of a row of `x`, a layer's keys or values: `[Hkv, n, D]` on
        `device`."""
        return x[row, :, start:end].to(device)

    def bring_pages(
        self, x: Tensor, layer: int, row: int, heads: Tensor, pages: Tensor, size: int,
        device: torch.device,
    ) -> Tensor:  # fmt: skip
        """Pages of `size` tokens of a row of `x`, each of one head: `[n, size, D]` on `device`, for
        `heads, pages: int64[n]`."""
        return paged(x, row, size)[heads.to(x.device), pages.to(x.device)].to(device)

    def begin(self, pass_: Any, call: Any) -> Callable[[], tuple[Tensor, Tensor] | None]:
        """Begin attention of an `AttentionCall` over keys of this level that are remote; what comes
        back waits for the partial (o, lse), which is None where there are no keys."""
        raise NotImplementedError("a level of one memory has nothing to fetch")

    def addresses(self, device: torch.device) -> tuple[int, ...]:
        """Sizes and addresses of all that a pass on `device` reads and writes here."""
        buffers = [0 if x is None else x.data_ptr() for x in (*self.k, *self.v)]
        return self.rows, self.capacity, self.lengths_on(device).data_ptr(), *buffers

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers made so far."""
        return sum(x.nbytes for x in (*self.k, *self.v) if x is not None)


def paged(x: Tensor, row: int, size: int) -> Tensor:
    """The whole pages of a row of `x[rows, Hkv, capacity, D]`: `[Hkv, P, size, D]`, a view."""
    count = x.shape[2] // size
    return x[row, :, : count * size].unflatten(1, (count, size))
