"""FusedRun: neighbouring fused layers, gone through in one call where their reads are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from specdec.forward.attention import required
from specdec.forward.forward_pass import ForwardPass
from specdec.forward.host_reads import host_reads, levels_of
from specdec.forward.plan import QuerySelect
from specdec.kernels.attention.level_attention import Reads
from specdec.kernels.linear.decoder_run import (
    LANES,
    PendingSelection,
    Run,
    Staging,
    alike,
    decoder_run,
)
from specdec.model.fused_layer import FusedLayer
from specdec.model.snapshot import has_hooks
from specdec.model.watch import Watch


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
        if torch.compiler.is_compiling():  # the kernels are not for PyTorch to look into
            out: Tensor = torch.compiler.disable(self._output)(hidden_states, **kwargs)
            return out
        return self._output(hidden_states, **kwargs)

    def _output(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        run, layer = self.run, self.run.modules[self.place]
        if run.watch is not None and run.watch.is_over:
            return self._own(hidden_states, kwargs)
        pass_ = required(kwargs.get("specdec_pass"))
        if not pass_.cache.is_looked_at:
            run.look()
            pass_.cache.is_looked_at = True
        if self.place == 0:
            out = run.through(pass_, hidden_states, kwargs["position_embeddings"])
            pass_.cache.run_made = run if out is not None else None
            if out is not None:
                return out
        elif pass_.cache.run_made is run:
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
        if not self._can_run or not self._is_free or not _can_plan(pass_):
            return None
        first, settings = self.layers[0], self.layers[0].settings
        indices = [i for x in self.layers if (i := x.settings.layer) < (pass_.layers or 0)]
        planned = _planned(pass_, indices, settings.window)
        if planned is None:
            return None
        reads, pending = planned
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
            while stop < len(reads) and reads[stop].table is reads[start].table:
                stop += 1
            x = decoder_run(
                x,
                self._part(start, stop),
                cos,
                sin,
                [levels_of(pass_, index) for index in indices[start:stop]],
                staging,
                reads[start:stop],
                pending[start:stop],
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


def _can_plan(pass_: ForwardPass) -> bool:
    """Whether all that a pass reads lies in host memory, and nobody looks at its calls."""
    is_watched = pass_.anc is None or pass_.inputs is not None or pass_.observers
    if is_watched or pass_.store.places or pass_.layers is None:
        return False
    return pass_.positions.device.type == "cpu"


def _planned(
    pass_: ForwardPass, layers: Sequence[int], window: int | None
) -> tuple[list[Reads], list[PendingSelection | None]] | None:
    """What each layer reads, and how those choose that do; None where some layer cannot say it
    before it has run, or reads what is no level of the store."""
    reads: list[Reads] = []
    pending: list[PendingSelection | None] = []
    deferred: list[QuerySelect] = []
    for layer in layers:
        plan, how = pass_.view.plan(pass_, layer, window), None
        if plan.select is not None:
            made = plan.select.defer()
            if made is None:
                break
            deferred.append(plan.select)
            plan, how = made
        if plan.extras or any(x.entries or x.keys for x in plan.rows or ()):
            break
        reads.append(host_reads(pass_, plan, layer, window))
        pending.append(how)
    else:
        return reads, pending
    for select in deferred:
        select.withdraw()
    return None


def _fit(a: FusedLayer, b: FusedLayer) -> bool:
    """Whether one call can go through both."""
    kinds = [(x.settings.scale, x.settings.softcap, x.settings.window) for x in (a, b)]
    return kinds[0] == kinds[1] and alike((a.inputs, a.output), (b.inputs, b.output))
