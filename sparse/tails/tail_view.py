"""TailView: sinks, a window, and a state of constant size for all between (Lizard, 2507.09025)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from specdec.forward.attention_call import AttentionCall
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.layout import Segments
from specdec.forward.pass_ahead import PassAhead
from specdec.forward.plan import WHOLE, LayerPlan, Needs, Partial, RowPlan
from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.precision import wide_dtype
from specdec.sparse.tails.feature_state import FeatureState
from specdec.sparse.tails.mean_state import MeanState
from specdec.sparse.tails.tail_state import TailKind, TailState, TailStates


@dataclass(frozen=True, eq=False)
class TailView:
    """The `sink` first and `recent` last committed tokens as they are, what lies between by a state
    of constant size, merged by its estimate of their mass.

    A relative of Lizard that needs no training: its window and its recurrent branch, but no learned
    features and gate, sinks that are tokens, and one softmax over all parts in place of a sum of
    two branches. The state is a mean, or, with `features`, linear attention by so many random ones.
    A softcap of logits is not in either estimate.
    """

    name: str
    sink: int
    recent: int
    features: int | None = None
    lossless: bool = field(default=False, init=False)

    needs = Needs()

    @property
    def reads(self) -> int:
        return self.sink + self.recent

    def prepare(self, ahead: PassAhead) -> Hashable | None:
        """None: the host says how much of each level a state covers."""
        return None

    def plan(self, pass_: ForwardPass, layer: int, window: int | None) -> LayerPlan:
        """The states of the committed levels, brought up to date, the sinks and what came since."""
        segments = pass_.segments(layer)
        if window is not None or all(x.total <= self.reads for x in segments):
            return WHOLE
        rows, reads = [], []
        for x in segments:
            spans = self._between(x)
            later = len(x.lengths) - x.readable
            rows.append(RowPlan((*(end for _, end in spans), *[0] * later)))
            reads.append([self._tail(pass_, layer, x, at, *span) for at, span in enumerate(spans)])
            dropped = sum(end - first for first, end in spans)
            kept = sum(0 if tail is None else tail.state.nbytes for tail in reads[-1])
            x.note(layer, x.total, (x.total - dropped) * x.token_bytes + kept)
        levels = zip(*reads, strict=True)
        return LayerPlan(tuple(rows), [Tails(level) for level in levels if any(level)])

    def _between(self, x: Segments) -> list[tuple[int, int]]:
        """Of each readable level, the first token that a state stands for, and the end of those."""
        spans, start = [], 0
        until = x.total - self.recent
        for length in x.lengths[: x.readable]:
            first = min(max(self.sink - start, 0), length)
            end = min(max(until - start, 0), length)
            spans.append((first, end) if end > first else (0, 0))
            start += length
        return spans

    def _state(self) -> TailState:
        return MeanState() if self.features is None else FeatureState(self.features)

    def _tail(
        self, pass_: ForwardPass, layer: int, x: Segments, at: int, first: int, end: int
    ) -> Tail | None:
        level, row = pass_.store.levels[at], x.rows[at]
        keys, values = level.k[layer], level.v[layer]
        if end <= first or keys is None or values is None:
            return None
        kind = TailKind(layer, self.sink, self.recent, self.features)
        state = TailStates.of(level, kind, self._state).row(row)
        return Tail(state, keys[row], values[row], first, end)


@dataclass(frozen=True, eq=False)
class Tail:
    """Tokens `first .. end` of a level's row `k, v[Hkv, capacity, D]`, and the state of them; those
    before `first` are read as they are."""

    state: TailState
    k: Tensor
    v: Tensor
    first: int
    end: int

    def attend(self, q: Tensor, call: AttentionCall) -> Partial:
        """Attention of `q[1, H, N, D]` over the state and the sinks."""
        self.state.update(self.k, self.v, self.first, self.end, call.scale)
        partial = self.state.attend(q[0], call.scale)
        found = [(partial[0][None], partial[1][None])]
        if self.first:
            length = torch.tensor([self.first], dtype=torch.int32, device=q.device)
            k, v = (x[None, :, : self.first].to(q) for x in (self.k, self.v))
            found.append(
                prefix_attention(
                    q, k, v, length, torch.zeros(1, dtype=torch.int32),
                    scale=call.scale, softcap=call.softcap,
                )
            )  # fmt: skip
        return merge([(o.to(found[-1][0]), lse.to(found[-1][1])) for o, lse in found])


@dataclass(frozen=True, eq=False)
class Tails:
    """Attention over one level's tails, for each sequence of a pass: an `Extra`."""

    tails: Sequence[Tail | None]

    def attend(self, call: AttentionCall) -> Partial:
        kind = wide_dtype(call.q.dtype)
        o = call.q.new_zeros(*call.q.shape[:3], call.v.shape[-1], dtype=kind)
        lse = o.new_full(call.q.shape[:3], -torch.inf)
        for b, tail in enumerate(self.tails):
            if tail is not None:
                o[b : b + 1], lse[b : b + 1] = tail.attend(call.q[b : b + 1], call)
        return o, lse
