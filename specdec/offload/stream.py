"""Stream: attention over remote keys and values: fetched one chunk ahead, or read by the CPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain, islice
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.plan import Partial
from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.precision import wide_dtype
from specdec.offload.staging import Slot
from specdec.offload.tier import HostTier
from specdec.offload.tiered_level import TieredLevel


class Chunk(NamedTuple):
    """Tokens `start .. end` of one row of the cold level in one layer."""

    layer: int
    row: int
    start: int
    end: int


Fetched = tuple[Chunk, Slot, "Future[tuple[Tensor, Tensor]]"]


class Stream:
    """The remote chunks that a pass reads of a cold level, in the order in which its layers come.

    While one chunk is read the next is fetched, into the next layer if need be. A pass that reads
    all layers (the full view's) is fetched ahead to its end; one that may skip layers, layer by
    layer.
    """

    def __init__(self, cold: TieredLevel, pass_: ForwardPass, device: torch.device) -> None:
        assert cold.staging is not None
        self.pass_, self.device, self.cold, self.staging = pass_, device, cold, cold.staging
        store, sequences = pass_.store, list(pass_.sequences)
        at = next(i for i, level in enumerate(store.levels) if level is cold)
        self.rows = store.row_maps[at][sequences]
        rows = self.rows.tolist()
        # Where each sequence's tokens of this level begin in its text.
        below = zip(store.levels[:at], store.row_maps[:at], strict=True)
        starts = [level.length[maps[sequences]] for level, maps in below]
        self.starts = sum(starts, torch.zeros(len(rows), dtype=torch.int64))[:, None]
        self.members = {
            row: [b for b, other in enumerate(rows) if other == row] for row in sorted(set(rows))
        }
        made = [
            (k, v) for k, v in zip(cold.k, cold.v, strict=True) if k is not None and v is not None
        ]
        self.free: deque[Slot] = deque(cold.staging.free_slots(device, made))
        self.ends = {row: int(cold.length[row]) for row in self.members}
        self.hosted: bool | None = None
        self.planned: deque[Chunk] = deque()
        self.ahead: deque[Fetched] = deque()

    @classmethod
    def of(cls, cold: TieredLevel, pass_: ForwardPass, device: torch.device) -> Stream:
        """The stream of a level in a pass, begun at the first layer that asks."""
        streams = pass_.cache.once(Streams, Streams).of
        if id(cold) not in streams:
            streams[id(cold)] = cls(cold, pass_, device)
        return streams[id(cold)]

    def begin(self, call: AttentionCall) -> Callable[[], Partial | None]:
        """Begin with the cold keys of the call's layer; what comes back waits for the partial.

        It is None where there are no keys. A partial that is computed on the host goes on in a
        thread of its own meanwhile.
        """
        self.cold.windows[call.layer] = call.window
        if self._on_host(call.layer):
            return self.cold.worker.submit(self._beside, call).result
        return partial(self._attend, call)

    def _on_host(self, layer: int) -> bool:
        """Whether the layer's keys are read where they lie, the same for all layers of a pass."""
        tier = self.cold.homes[layer]
        if not isinstance(tier, HostTier):
            return False
        if self.hosted is None:
            self.hosted = tier.balance.on_host(self.pass_.positions.numel())
        return self.hosted

    @torch.inference_mode()
    def _beside(self, call: AttentionCall) -> Partial | None:
        """The partial over keys in host memory, computed by the CPU, on the call's device."""
        k, v = self.cold.k[call.layer], self.cold.v[call.layer]
        tier = self.cold.homes[call.layer]
        assert k is not None and v is not None and isinstance(tier, HostTier)
        if not any(self.ends.values()):
            return None
        first = self._first(call.window, torch.device("cpu"))
        started = perf_counter()
        o, lse = prefix_attention(
            call.q.cpu(), k, v, self.cold.length, self.rows, scale=call.scale, softcap=call.softcap,
            first=first,
        )  # fmt: skip
        token = k[0, :, 0].nbytes + v[0, :, 0].nbytes
        nbytes = token * sum(self.ends.values())
        tier.balance.note(self.pass_.positions.numel(), nbytes, perf_counter() - started)
        return o.to(call.q.device), lse.to(call.q.device)

    def _attend(self, call: AttentionCall) -> Partial | None:
        """The partial over chunks that are fetched to the device."""
        first = self._first(call.window, self.pass_.positions.device)
        merged: Partial | None = None
        for chunk, k, v in self._chunks(call.layer):
            if merged is None:
                merged = _nothing(call)
            mine = self.members[chunk.row]
            q = call.q[mine]
            part = prefix_attention(
                q, k, v,
                torch.tensor([chunk.end - chunk.start], dtype=torch.int32, device=q.device),
                torch.zeros(len(mine), dtype=torch.int32, device=q.device),
                scale=call.scale, softcap=call.softcap,
                first=None if first is None else first[mine] - chunk.start,
            )  # fmt: skip
            before = merged[0][mine], merged[1][mine]
            merged[0][mine], merged[1][mine] = merge([before, part])
        return merged

    def _chunks(self, layer: int) -> Iterator[tuple[Chunk, Tensor, Tensor]]:
        """The layer's chunks, each valid until the next is asked for."""
        wanted = self._plan(layer)
        following = chain((entry[0] for entry in self.ahead), self.planned)
        if list(islice(following, len(wanted))) != wanted:
            self._drop()
            self.planned.extend(wanted)
            if self.pass_.view.lossless:
                for later in range(layer + 1, len(self.cold.k)):
                    self.planned.extend(self._plan(later))
        self._fetch_ahead()
        for chunk in wanted:
            _, slot, future = self.ahead.popleft()
            k, v = future.result()
            self.staging.ready(slot)
            yield chunk, k, v
            self.staging.done(slot)
            self.free.append(slot)
            self._fetch_ahead()

    def _plan(self, layer: int) -> list[Chunk]:
        """What of a layer has to be fetched, as far as its window is known."""
        k, v = self.cold.k[layer], self.cold.v[layer]
        is_fetched = self.cold.is_remote(layer, self.device) and not self._on_host(layer)
        if k is None or v is None or not is_fetched:
            return []
        window, lowest = self.cold.windows.get(layer), 0
        if window is not None:
            lowest = max(0, self.lowest_place - (window - 1))
        size = self.staging.tokens(k, v)
        return [
            Chunk(layer, row, start, min(start + size, end))
            for row, end in self.ends.items()
            for start in range(lowest, end, size)
        ]

    @cached_property
    def lowest_place(self) -> int:
        """The lowest position of the pass as the level counts it, for windows."""
        return int((self.pass_.positions.cpu() - self.starts).min())

    def _first(self, window: int | None, device: torch.device) -> Tensor | None:
        """The first slot of the level that each token sees, `int64[B, N]`; None is all."""
        if window is None:
            return None
        return (self.pass_.positions.to(device) - self.starts.to(device)) - (window - 1)

    def _fetch_ahead(self) -> None:
        while self.free and self.planned:
            chunk, slot = self.planned.popleft(), self.free.popleft()
            k, v = self.cold.k[chunk.layer], self.cold.v[chunk.layer]
            assert k is not None and v is not None
            future = self.cold.worker.submit(
                self.staging.fill,
                slot, self.cold.homes[chunk.layer], k, v, chunk.row, chunk.start, chunk.end,
            )  # fmt: skip
            self.ahead.append((chunk, slot, future))

    def _drop(self) -> None:
        """Forget what was planned; what is on its way is waited for."""
        self.planned.clear()
        while self.ahead:
            _, slot, future = self.ahead.popleft()
            future.result()
            self.free.append(slot)


@dataclass
class Streams:
    """Those of a pass, by level."""

    of: dict[int, Stream] = field(default_factory=dict)


def begin_in(
    cold: TieredLevel, pass_: ForwardPass, call: AttentionCall
) -> Callable[[], Partial | None]:
    """Begin with the cold keys of a call in the stream of its pass: see `Stream.begin`."""
    return Stream.of(cold, pass_, call.q.device).begin(call)


def _nothing(call: AttentionCall) -> Partial:
    """A partial over no keys, to which others are merged in place."""
    batch, heads, nodes, _ = call.q.shape
    dtype = wide_dtype(call.q.dtype)
    o = call.q.new_zeros(batch, heads, nodes, call.v.shape[-1], dtype=dtype)
    return o, call.q.new_full((batch, heads, nodes), -torch.inf, dtype=dtype)
