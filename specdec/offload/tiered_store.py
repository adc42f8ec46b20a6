"""TieredStore: a store whose older tokens lie where there is room for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from specdec.cache.level import Level
from specdec.cache.store import KVStore
from specdec.errors import SpecdecError
from specdec.offload.budget import Budget
from specdec.offload.staging import Staging
from specdec.offload.stream import begin_in
from specdec.offload.tier import DeviceTier, Tier
from specdec.offload.tiered_level import TieredLevel


class TieredStore(KVStore):
    """Levels in pairs: *cold* for what was read before, *hot* on the device for what is recent.

    New tokens are staged and committed in the hot level, as in any store. When it holds `window +
    block` tokens or more, the oldest whole blocks move to the end of the cold one, so a prompt of
    any length passes through a hot level of fixed size. What a sequence reads, and in which order,
    does not change. Each layer's cold keys and values lie in its tier of `homes`.

    `stack` pushes another pair where its rows may outgrow a hot level, else a level on the device,
    in which nothing moves. Sequences that share rows of a pair share what has moved.

    room: tokens that may be staged or committed at a time; staging_bytes: of each of the buffers
    through which remote keys and values come to the device. on_spill: told of each layer of a row
    whose tokens have moved (`Needs.on_spill`).
    """

    def __init__(
        self,
        sequences: int,
        capacity: int,
        homes: Sequence[Tier],
        budget: Budget,
        *,
        window: int,
        block: int,
        room: int,
        staging_bytes: int,
    ) -> None:
        super().__init__(len(homes), sequences, capacity)
        self.window, self.block, self.hot = window, block, window + block + room
        self.on_spill: Sequence[Callable[[Level, int, int, torch.device], None]] = ()
        self._homes, self._near = homes, [DeviceTier(budget)] * len(homes)
        self._budget, self._staging_bytes = budget, staging_bytes
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="specdec-kv")
        self.levels, self.row_maps = [], []
        self._push_pair(sequences, capacity, torch.arange(sequences, dtype=torch.int32))

    def _push(self, rows: int, capacity: int, row_map: Tensor) -> None:
        self.is_paired = capacity > self.hot
        if self.is_paired:
            self._push_pair(rows, capacity, row_map)
        else:
            super()._push(rows, capacity, row_map)

    def _push_pair(self, rows: int, capacity: int, row_map: Tensor) -> None:
        staging = Staging(self._budget, self._staging_bytes)
        self.is_paired = True
        self.levels += [
            TieredLevel(rows, capacity, self._homes, staging, begin_in, self._worker),
            TieredLevel(rows, self.hot, self._near),
        ]
        self.row_maps += [row_map, row_map.clone()]

    @property
    def room(self) -> int:
        return self.levels[-2 if self.is_paired else -1].capacity

    def commit(self, sequence: int, path: Sequence[int]) -> None:
        """See KVStore. Raises OutOfMemory where older tokens have nowhere to go; nothing has then
        been committed or moved."""
        row = self.row(sequence)
        count = self._surplus(row, len(path)) if self.is_paired else 0
        if count:
            self._make_room()
        super().commit(sequence, path)
        if count:
            self._spill(row, count)

    def crop(self, sequence: int, length: int) -> None:
        if not self.is_paired or length >= self.offset(sequence):
            super().crop(sequence, length)
            return
        cold, hot = self.levels[-2:]
        row = self.row(sequence)
        kept = length - (self.offset(sequence) - int(cold.length[row]))
        if kept < 0:
            raise SpecdecError(f"cannot crop sequence {sequence} to {length} tokens")
        hot.crop(row, 0)
        cold.crop(row, kept)
        self.note_crop(sequence, length)

    def overlay(self, capacity: int) -> KVStore:
        store = super().overlay(capacity)
        store.levels[-1] = self.levels[-1].another(self.sequences, capacity)
        return store

    def _surplus(self, row: int, new: int) -> int:
        """Tokens of a row's hot level, with `new` more in it, that are to move: whole blocks."""
        held = int(self.levels[-1].length[row]) + new
        return max(0, (held - self.window) // self.block * self.block)

    def _make_room(self) -> None:
        """Make the cold level's buffers of all layers, in place."""
        cold, hot = self.levels[-2:]
        for layer, (keys, values) in enumerate(zip(hot.k, hot.v, strict=True)):
            if keys is not None and values is not None:
                cold.buffers(layer, keys, values)

    def _spill(self, row: int, count: int) -> None:
        """Move the oldest `count` tokens of a row's hot level to its cold one, in place.

        Nothing is allocated on the way.
        """
        cold, hot = self.levels[-2:]
        start, kept = int(cold.length[row]), int(hot.length[row]) - count
        for layer, (keys, values) in enumerate(zip(hot.k, hot.v, strict=True)):
            if keys is None or values is None:
                continue
            targets = cold.buffers(layer, keys, values)
            for source, target in zip((keys, values), targets, strict=True):
                target[row, :, start : start + count] = source[row, :, :count]
                for at in range(0, kept, count):  # pieces that do not overlap what they come from
                    end = min(at + count, kept)
                    source[row, :, at:end] = source[row, :, at + count : end + count]
        cold.extend(row, count)
        hot.crop(row, 0)  # what was kept beside the hot tokens speaks of others now
        hot.resize(row, kept)
        for layer, keys in enumerate(hot.k):
            for told in self.on_spill:
                if keys is not None:
                    told(cold, layer, row, keys.device)
