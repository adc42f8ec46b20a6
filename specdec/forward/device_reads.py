"""DeviceReads: where a pass over nodes reads and writes, in tensors that only the device knows.

What `level_reads` works out on the host for our CPU kernels stands here for a GPU: nothing is asked
of the host, so that a captured pass is right for any lengths, rows and staged slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.forward.forward_pass import AttentionCall, ForwardPass
from specdec.kernels.cache.stage_kv import stage_kv


class DeviceReads:
    """Lengths, row maps and staged slots of a placed pass, made once for all of its layers."""

    def __init__(self, pass_: ForwardPass, device: torch.device) -> None:
        assert pass_.inputs is not None
        self.pass_, self.inputs = pass_, pass_.inputs
        self.levels = pass_.store.levels
        self.row_maps = list(self.inputs.row_maps.to(torch.int32).unbind())
        self.lengths = [level.lengths_on(device) for level in self.levels]
        self.start = self.lengths[-1] + self.inputs.staged.to(torch.int32)  # where this pass writes
        self.is_plain = self.inputs.shape.nodes == self.inputs.shape.slots == 1
        self.is_later = self.inputs.shape.slots > self.inputs.shape.nodes  # not a round's first
        self._plain = self.start + 1
        self._firsts: dict[int, list[Tensor]] = {}
        self._slots: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, pass_: ForwardPass, device: torch.device) -> DeviceReads:
        """Those of a pass, made at its first layer."""
        if "device" not in pass_.plans:
            pass_.plans["device"] = cls(pass_, device)
        known: DeviceReads = pass_.plans["device"]
        return known

    def stage(self, call: AttentionCall) -> None:
        """Write the call's keys and values behind what is staged, in place."""
        keys, values = self.levels[-1].buffers(call.layer, call.k, call.v)
        stage_kv(keys, values, call.k, call.v, self.start, self.row_maps[-1], at=0)

    def read(self, place: int) -> Tensor:
        """How many keys of each row of a level are read by all: a lone token's own among them."""
        is_last = place == len(self.levels) - 1
        return self._plain if is_last and self.is_plain else self.lengths[place]

    def first(self, window: int | None, place: int) -> Tensor | None:
        """The first key slot of a level that each node sees, `int64[B, N]`."""
        if window is None:
            return None
        if window not in self._firsts:
            offset, firsts = torch.zeros_like(self.inputs.positions[:, :1]), []
            for lengths, rows in zip(self.lengths, self.row_maps, strict=True):
                firsts.append(self.inputs.positions - (window - 1) - offset)
                offset = offset + lengths[rows.long()].long()[:, None]
            self._firsts[window] = firsts
        return self._firsts[window][place]

    def staged(self, call: AttentionCall) -> tuple[Tensor, Tensor]:
        """Keys and values of all staged slots that the mask speaks of, `[B, Hkv, S, D]`.

        Slots that nobody has written in this round are zero: they may hold anything.
        """
        shape, level = self.inputs.shape, self.levels[-1]
        if shape.slots == shape.nodes:
            return call.k, call.v
        if self._slots is None:
            slots = torch.arange(shape.slots, device=call.q.device)
            lengths = self.lengths[-1][self.row_maps[-1].long()].long()
            at = (lengths[:, None] + slots).clamp_max(level.capacity - 1)
            self._slots = at, slots < self.inputs.staged + shape.nodes
        at, written = self._slots
        rows = self.row_maps[-1].long()[:, None]
        k, v = (
            torch.where(written[:, None], x[rows, :, at].transpose(1, 2), 0)
            for x in level.buffers(call.layer, call.k, call.v)
        )
        return k, v
