"""FusedRun: neighbouring fused layers, gone through in one call where their reads are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn

from specdec.forward.attention import required
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.full_view import levels_of
from specdec.kernels.linear.decoder_run import LANES, Run, Staging, alike, decoder_run
from specdec.model.fused_layer import FusedLayer
from specdec.model.snapshot import has_hooks
from specdec.model.watch import Watch

_GONE = "gone through"  # in a pass's plans: the last run that made all its outputs at once
_LOOKED = "looked at"  # whether the watch has been asked in this pass


@dataclass(frozen=True, eq=False)
class RunLayer:
    """What stands in for the forward of one layer, alone or in a run of several.

    The first one goes through as many as it can; those hand its output on. Where someone looks at a
    layer of a run, or a view has to see queries before it knows what a layer reads, layers are
    called one by one; and one that is no more what it was fused from keeps its own forward.
    """

    run: FusedRun
    place: int

    def __call__(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """The layer's output `[B, N, hidden]`, or that of the run from its first layer on."""
        run, layer = self.run, self.run.modules[self.place]
        if run.watch is not None and run.watch.is_over:
            return self._own(hidden_states, kwargs)
        pass_ = required(kwargs.get("specdec_pass"))
        if _LOOKED not in pass_.plans:
            run.look()
            pass_.plans[_LOOKED] = True
        if self.place == 0:
            out = run.through(pass_, hidden_states, kwargs["position_embeddings"])
            if out is not None:
                pass_.plans[_GONE] = run
                return out
        elif pass_.plans.get(_GONE) is run:
            return hidden_states
        if run.is_fused(layer):
            return run.layers[self.place](hidden_states, **kwargs)
        return self._own(hidden_states, kwargs)

    def _own(self, hidden_states: Tensor, kwargs: dict[str, Any]) -> Tensor:
        layer = self.run.modules[self.place]
        out: Tensor = type(layer).forward(layer, hidden_states, **kwargs)
        return out


@dataclass(frozen=True, eq=False)
class FusedRun:
    """Layers that are alike in all but their weights, and the modules whose forwards they are.

    watch: knows which of them may be called so; None for layers that only draft.
    """

    layers: tuple[FusedLayer, ...]
    modules: tuple[nn.Module, ...]
    watch: Watch | None = None
    parts: dict[tuple[int, int], Run] = field(default_factory=dict)

    def look(self) -> None:
        """Have the watch bring itself up to date."""
        if self.watch is not None:
            self.watch.look()

    def is_fused(self, layer: nn.Module) -> bool:
        """Whether a layer still is what its fused form was made from."""
        return self.watch is None or layer not in self.watch.own

    def through(
        self, pass_: ForwardPass, x: Tensor, position_embeddings: tuple[Tensor, Tensor]
    ) -> Tensor | None:
        """The output of the last layer that the model has, for the first one's input; None where
        they have to be called one by one."""
        if not self._can_run or not self._is_free or pass_.layers is None:
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
        pass_.heard.update(indices)
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
        if self.watch is None:
            return not any(map(has_hooks, self.modules))
        return self.watch.alone.isdisjoint(self.modules)

    @cached_property
    def _can_run(self) -> bool:
        """Whether attention has no sinks, and heads of a size that our kernel takes."""
        layer = self.layers[0]
        return layer.settings.sinks is None and layer.inputs.head_dim % LANES == 0

    def _part(self, start: int, stop: int) -> Run:
        if (start, stop) not in self.parts:
            layers = self.layers[start:stop]
            self.parts[start, stop] = Run(tuple((x.inputs, x.output) for x in layers))
        return self.parts[start, stop]


def forwards(
    layers: Mapping[int, tuple[nn.Module, FusedLayer]], watch: Watch | None = None
) -> dict[int, RunLayer]:
    """What stands in for the forward of each layer, by index: alike neighbours make a run."""
    runs: list[list[int]] = []
    for index in sorted(layers):
        if runs and index == runs[-1][-1] + 1 and _fit(layers[runs[-1][0]][1], layers[index][1]):
            runs[-1].append(index)
        else:
            runs.append([index])
    made: dict[int, RunLayer] = {}
    for indices in runs:
        modules, fused = zip(*(layers[index] for index in indices), strict=True)
        run = FusedRun(fused, modules, watch)
        made |= {index: RunLayer(run, place) for place, index in enumerate(indices)}
    return made


@cache
def _speaks_for_itself(view: type) -> bool:
    """Whether a view's `reads_ahead` is that of its `attend`: a class derived from it may have
    changed the one and not the other."""
    names = ("attend", "reads_ahead")
    owner = next((x for x in view.__mro__ if any(name in vars(x) for name in names)), object)
    return "reads_ahead" in vars(owner)


def _fit(a: FusedLayer, b: FusedLayer) -> bool:
    """Whether one call can go through both."""
    kinds = [(x.settings.scale, x.settings.softcap, x.settings.window) for x in (a, b)]
    return kinds[0] == kinds[1] and alike((a.inputs, a.output), (b.inputs, b.output))
