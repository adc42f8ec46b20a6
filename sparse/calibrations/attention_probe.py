"""AttentionProbe: what some queries of a text that is being read look at, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from specdec.forward.attention_call import AttentionCall
from specdec.forward.observer import SeenPass
from specdec.sparse.maths.window_scores import window_scores


@dataclass(frozen=True, eq=False)
class SeenLayer:
    """Queries `q[Hkv, G, n, D]` at `positions: int64[n]` of a text whose keys and values up to the
    last of them are `k, v[Hkv, S, D]`, as a layer caches them."""

    layer: int
    q: Tensor
    k: Tensor
    v: Tensor
    positions: Tensor
    scale: float
    softcap: float | None

    @cached_property
    def attention(self) -> Tensor:
        """Probabilities `[Hkv, G, n, S]`."""
        return window_scores(self.q, self.k, self.scale, self.positions, self.softcap)

    def output(self, mask: Tensor | None = None) -> Tensor:
        """What the heads make of it, `[Hkv, G, n, Dv]`; mask: `bool[.., n, S]`, keys to read."""
        attention = self.attention
        if mask is not None:
            attention = attention * mask
            attention = attention / attention.sum(-1, keepdim=True).clamp_min(1e-30)
        return attention @ self.v[:, None].to(attention)


@dataclass(frozen=True, eq=False)
class AttentionProbe:
    """Hands those queries of a text that `wanted` says, by their positions, to `take`.

    An `Observer` of passes over one sequence. Layers with a sliding window are left out.
    """

    wanted: Callable[[Tensor], Tensor]
    take: Callable[[SeenLayer], None]

    def see(self, call: AttentionCall, pass_: SeenPass) -> None:
        if call.window is not None:
            return
        positions = pass_.positions[0]
        chosen = self.wanted(positions)
        if not bool(chosen.any()):
            return
        level, heads = pass_.store.levels[0], call.k.shape[1]
        keys, values = level.k[call.layer], level.v[call.layer]
        assert keys is not None and values is not None
        end = int(level.length[0]) + len(positions)
        q = call.q[0][:, chosen].unflatten(0, (heads, -1))
        self.take(
            SeenLayer(
                call.layer, q, keys[0, :, :end], values[0, :, :end], positions[chosen], call.scale,
                call.softcap,
            )
        )  # fmt: skip


def every(stride: int) -> Callable[[Tensor], Tensor]:
    """Positions that `stride` divides."""
    return lambda positions: positions % stride == 0


def between(first: int, last: int) -> Callable[[Tensor], Tensor]:
    """Positions from `first` up to `last`, which is no longer one."""
    return lambda positions: torch.logical_and(positions >= first, positions < last)
