"""Graphs: whole passes over nodes, captured once and replayed with other inputs.

A graph is good for one shape and one place of everything the pass reads and writes: what it bakes
in are addresses, strides and numbers of the host. So it is known by them, and a store that lies
elsewhere has graphs of its own.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import RLock
from typing import Any, Protocol

import torch
from torch import Tensor

from specdec.forward.static_inputs import PassInputs, PassShape

log = logging.getLogger("specdec")

BOUND = 48  # graphs that are kept, those used last
PATIENCE = 256  # passes of a view after one that could not be captured; then twice as many ...
AFTER = 2  # passes of a kind that run as they are before one is captured: most kinds come once

Run = Callable[[PassInputs], tuple[Tensor, Any]]


class Capture(Protocol):
    """What makes a graph: `CudaCapture`, or something that checks on a CPU what one would need."""

    def __call__(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
        """Record what `run` does; returns what it returned, and a function that does it again.

        Doing it again writes to the same tensors. Raises RuntimeError for what cannot be captured.
        """

    @property
    def nbytes(self) -> int:
        """Bytes of the device that all graphs hold for themselves."""


@dataclass
class GraphedPass:
    """A captured pass: its inputs, the logits that a replay writes, and what it left besides."""

    inputs: PassInputs
    logits: Tensor
    left: Any
    replay: Callable[[], object]


class Graphs:
    """The graphs of one model, at most `bound`; the one not used for longest makes way."""

    def __init__(self, capture: Capture, bound: int = BOUND, after: int = AFTER) -> None:
        self.capture, self.bound, self.after = capture, bound, after
        self.captures = self.replays = 0
        self.refused: dict[str, str] = {}  # view -> why its passes are not captured, for now
        self._waits: dict[str, tuple[int, int]] = {}  # view -> passes to go, and those after that
        self._lock = RLock()
        self._graphs: OrderedDict[Hashable, GraphedPass] = OrderedDict()
        self._seen: OrderedDict[Hashable, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._graphs)

    @property
    def nbytes(self) -> int:
        """Bytes of the device that graphs hold: inputs, logits and what passes work in."""
        return self.capture.nbytes + sum(x.inputs.buffer.nbytes for x in self._graphs.values())

    def run(
        self,
        view: str,
        place: Hashable,
        shape: PassShape,
        device: torch.device,
        fill: Callable[[PassInputs], None],
        run: Run,
    ) -> tuple[Tensor, Any]:
        """`run` after `fill`, by a graph if there is one for this view, place and shape.

        place: all addresses that the pass works on, its inputs apart. Returns the logits, which are
        the caller's to keep, and what else `run` returned, which the next replay overwrites.

        Where a pass cannot be captured, it runs as it is, and those of its view after it; so many
        passes later it is tried again, since memory may only have been short. Threads take turns.
        """
        with self._lock:
            return self._run((view, place, shape), view, shape, device, fill, run)

    def clear(self) -> None:
        """Forget all graphs: what they have baked in is not so any more."""
        with self._lock:
            self._graphs.clear()
            self._seen.clear()

    def _run(
        self,
        key: Hashable,
        view: str,
        shape: PassShape,
        device: torch.device,
        fill: Callable[[PassInputs], None],
        run: Run,
    ) -> tuple[Tensor, Any]:
        known = self._graphs.get(key)
        if known is None and not self._is_due(key, view):
            inputs = PassInputs(shape, device)
            fill(inputs)
            return run(inputs)
        if known is None:
            inputs = PassInputs(shape, device)
            fill(inputs)
            try:
                (logits, left), replay = self.capture(lambda: run(inputs))
            except RuntimeError as error:
                self._refuse(view, error)
                return run(inputs)
            self.captures += 1
            self.refused.pop(view, None)
            self._waits.pop(view, None)
            known = self._graphs[key] = GraphedPass(inputs, logits, left, replay)
            if len(self._graphs) > self.bound:
                self._graphs.popitem(last=False)
        else:
            self._graphs.move_to_end(key)
            fill(known.inputs)
        known.replay()
        self.replays += 1
        return known.logits.clone(), known.left

    def _is_due(self, key: Hashable, view: str) -> bool:
        """Whether a kind of pass has been run often enough to be worth a graph."""
        if view in self._waits:
            left, then = self._waits[view]
            self._waits[view] = max(left - 1, 0), then
            if left > 0:
                return False
        times = self._seen.pop(key, 0)
        if times >= self.after:
            return True
        self._seen[key] = times + 1
        if len(self._seen) > 4 * self.bound:
            self._seen.popitem(last=False)
        return False

    def _refuse(self, view: str, error: RuntimeError) -> None:
        if view not in self.refused:
            log.warning("passes of view %s run without CUDA graphs: %s", view, error)
        self.refused[view] = str(error)
        wait = self._waits[view][1] if view in self._waits else PATIENCE
        self._waits[view] = wait, 2 * wait


class CudaCapture:
    """CUDA graphs on a stream of their own, which share one pool of memory.

    They never run at the same time, and what they return is kept for as long as they are, so
    each may work in what the others left.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.nbytes = 0

    def __call__(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], object]]:
        with torch.cuda.device(self.device):
            here = torch.cuda.current_stream()
            self.stream.wait_stream(here)
            with torch.cuda.stream(self.stream):  # kernels compile, libraries take their workspace
                run()
            here.wait_stream(self.stream)
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                result = run()
            self.nbytes += max(0, torch.cuda.memory_reserved() - before)
            return result, graph.replay
