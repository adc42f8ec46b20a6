"""FusedRun: neighbouring fused layers, gone through in one call where their reads are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from specdec.attention import required
from specdec.forward_pass import ForwardPass
from specdec.fused_layer import FusedLayer
from specdec.kernels.decoder_run import LANES, Run, Staging, alike, decoder_run
from specdec.view import levels_of

_GONE = "gone through"  # in a pass's plans: whether its last run made all outputs at once


@dataclass(frozen=True, eq=False)
class RunLayer:
    """What stands in for the forward of one layer of a run.

    The first one goes through as many as it can; those hand its output on. A hook on any layer of
    a run, or a view that has to see queries before it knows what a layer reads, and layers are
    called one by one.
    """

    run: FusedRun
    place: int

    def __call__(
        self,
        hidden_states: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        specdec_pass: ForwardPass | None = None,
        **_: Any,
    ) -> Tensor:
        """The layer's output `[B, N, hidden]`, or that of the run from its first layer on."""
        pass_ = required(specdec_pass)
        layer = self.run.layers[self.place]
        if self.place == 0:
            out = self.run.through(pass_, hidden_states, position_embeddings)
            pass_.plans[_GONE] = out is not None
            if out is not None:
                return out
        elif pass_.plans.get(_GONE):
            return hidden_states
        return layer(
            hidden_states, position_embeddings=position_embeddings, specdec_pass=specdec_pass
        )


@dataclass(frozen=True, eq=False)
class FusedRun:
    """Layers that are alike in all but their weights, and the modules whose forwards they are."""

    layers: tuple[FusedLayer, ...]
    modules: tuple[nn.Module, ...]
    parts: dict[tuple[int, int], Run] = field(default_factory=dict)

    def through(
        self, pass_: ForwardPass, x: Tensor, position_embeddings: tuple[Tensor, Tensor]
    ) -> Tensor | None:
        """The output of the last layer that the model has, for the first one's input; None where
        they have to be called one by one."""
        if not self._is_free or pass_.layers is None:
            return None
        first, settings = self.layers[0], self.layers[0].settings
        indices = [i for x in self.layers if (i := x.settings.layer) < pass_.layers]
        if not _speaks_for_itself(type(pass_.view)):
            return None
        reads = pass_.view.reads_ahead(pass_, indices, settings.window)  # type: ignore[attr-defined]
        if reads is None:
            return None
        store = pass_.store
        last, sequences = store.levels[-1], pass_.sequences
        store.check_room(sequences, pass_.staged + x.shape[1])
        like = x.new_empty(1, first.kv_heads, 1, first.inputs.head_dim)
        for index in indices:
            last.buffers(index, like, like)
        rows = torch.tensor(sequences, dtype=torch.int32)
        staging = Staging(last.length, rows, pass_.staged)
        cos, sin = (t.contiguous() for t in position_embeddings)
        x, start = x.contiguous(), 0
        while start < len(reads):  # as far as the table of reads is the same
            stop = start + 1
            while stop < len(reads) and reads[stop][0].table is reads[start][0].table:
                stop += 1
            x = decoder_run(
                x,
                self._part(start, stop),
                cos,
                sin,
                [levels_of(pass_, index) for index in indices[start:stop]],
                staging,
                [read for read, _ in reads[start:stop]],
                [choosing for _, choosing in reads[start:stop]],
                scale=settings.scale,
                softcap=settings.softcap,
            )
            start = stop
        return x

    @property
    def _is_free(self) -> bool:
        """Whether nobody wants to be called between two layers."""
        return not any(
            module._forward_hooks or module._forward_pre_hooks for module in self.modules
        )

    def _part(self, start: int, stop: int) -> Run:
        if (start, stop) not in self.parts:
            layers = self.layers[start:stop]
            self.parts[start, stop] = Run(tuple((x.inputs, x.output) for x in layers))
        return self.parts[start, stop]


def forwards(
    layers: Mapping[int, tuple[nn.Module, FusedLayer]],
) -> dict[int, RunLayer | FusedLayer]:
    """What stands in for the forward of each layer, by index: alike neighbours make a run."""
    runs: list[list[int]] = []
    for index in sorted(layers):
        if runs and index == runs[-1][-1] + 1 and _fit(layers[runs[-1][0]][1], layers[index][1]):
            runs[-1].append(index)
        else:
            runs.append([index])
    made: dict[int, RunLayer | FusedLayer] = {}
    for indices in runs:
        modules, fused = zip(*(layers[index] for index in indices), strict=True)
        run = FusedRun(fused, modules)
        for place, index in enumerate(indices):
            made[index] = RunLayer(run, place) if _can_run(fused[0]) else fused[place]
    return made


@cache
def _speaks_for_itself(view: type) -> bool:
    """Whether a view's `reads_ahead` is that of its `attend`: a class derived from it may have
    changed the one and not the other."""
    names = ("attend", "reads_ahead")
    owner = next((x for x in view.__mro__ if any(name in vars(x) for name in names)), object)
    return "reads_ahead" in vars(owner)


def _can_run(layer: FusedLayer) -> bool:
    """Whether attention has no sinks, and heads of a size that our kernel takes."""
    return layer.settings.sinks is None and layer.inputs.head_dim % LANES == 0


def _fit(a: FusedLayer, b: FusedLayer) -> bool:
    """Whether one call can go through both."""
    kinds = [(x.settings.scale, x.settings.softcap, x.settings.window) for x in (a, b)]
    return kinds[0] == kinds[1] and alike((a.inputs, a.output), (b.inputs, b.output))
