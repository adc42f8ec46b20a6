"""Attention of a static pass: what it reads stands in tensors that only the device knows.

What `host_reads` works out on the host for our CPU kernels stands here for a GPU: nothing is asked
of the host, so that a captured pass is right for any lengths, rows and staged slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.partials import sink_partial, tree_partial
from specdec.forward.plan import Partial, StaticPlan
from specdec.kernels.attention.gather_attention import gather_attention
from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.cache.stage_kv import stage_kv


def attend_static(pass_: ForwardPass, call: AttentionCall) -> Tensor:
    """Stage the call's keys and values, and return the attention output `[B, H, N, Dv]`.

    An empty level is read, too: it gives lse = -inf.
    """
    reads = StaticReads.of(pass_, call.q.device)
    reads.stage(call)
    for observer in pass_.observers:
        observer.see(call, pass_)
    plan = pass_.view.plan(pass_, call.layer, call.window).static
    partials = [] if plan is None else _first_level(call, reads, plan)
    for at in range(0 if plan is None else 1, len(reads.levels)):
        level = reads.levels[at]
        if level.k[call.layer] is not None and level.v[call.layer] is not None:
            partials.append(reads.prefix(call, at, reads.first(call.window, at)))
    if not reads.is_plain:
        partials.append(tree_partial(pass_, call, *reads.staged(call)))
    if call.sinks is not None:
        partials.append(sink_partial(call))
    return merge(partials)[0].to(call.q.dtype)


def _first_level(call: AttentionCall, reads: StaticReads, plan: StaticPlan) -> list[Partial]:
    """Attention over what is selected of the first level, and over what is read besides."""
    whole = reads.prefix(call, 0, None) if plan.reads_all else None
    if plan.select is not None:
        plan.select(call, whole)
    if whole is not None:
        return [whole]
    k, v = reads.levels[0].buffers(call.layer, call.k, call.v)
    pages = gather_attention(
        call.q, k, v, plan.pages(), reads.lengths[0], reads.row_maps[0],
        page_size=plan.page_size, scale=call.scale, softcap=call.softcap,
    )  # fmt: skip
    since = plan.since().long()[:, None].expand(-1, call.q.shape[2])
    return [pages, reads.prefix(call, 0, since.contiguous())]


class StaticReads:
    """Lengths, row maps and staged slots of a static pass, made once for all of its layers."""

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
    def of(cls, pass_: ForwardPass, device: torch.device) -> StaticReads:
        """Those of a pass, made at its first layer."""
        return pass_.cache.once(cls, lambda: cls(pass_, device))

    def stage(self, call: AttentionCall) -> None:
        """Write the call's keys and values behind what is staged, in place."""
        keys, values = self.levels[-1].buffers(call.layer, call.k, call.v)
        stage_kv(keys, values, call.k, call.v, self.start, self.row_maps[-1], at=0)

    def prefix(self, call: AttentionCall, at: int, first: Tensor | None) -> Partial:
        """Attention over the tokens of a level from the `first[B, N]` that each node sees."""
        k, v = self.levels[at].buffers(call.layer, call.k, call.v)
        return prefix_attention(
            call.q, k, v, self._read(at), self.row_maps[at],
            scale=call.scale, softcap=call.softcap, first=first,
        )  # fmt: skip

    def _read(self, at: int) -> Tensor:
        """How many keys of each row of a level are read by all: a lone token's own among them."""
        is_last = at == len(self.levels) - 1
        return self._plain if is_last and self.is_plain else self.lengths[at]

    def first(self, window: int | None, at: int) -> Tensor | None:
        """The first key slot of a level that each node sees, `int64[B, N]`."""
        if window is None:
            return None
        if window not in self._firsts:
            offset, firsts = torch.zeros_like(self.inputs.positions[:, :1]), []
            for lengths, rows in zip(self.lengths, self.row_maps, strict=True):
                firsts.append(self.inputs.positions - (window - 1) - offset)
                offset = offset + lengths[rows.long()].long()[:, None]
            self._firsts[window] = firsts
        return self._firsts[window][at]

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
