"""Where the milliseconds of a pass go on a CPU, against the memory bandwidth of the same moment."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from specdec.cached_model import CachedModel
from specdec.engine import Engine
from specdec.kernels.dispatch import Op
from specdec.noise import Noise
from specdec.row import Row
from specdec.sampler import Sampler
from specdec.tree import TokenTree
from specdec.view import FullView

STREAM_BYTES = 1 << 29  # beyond any cache


@dataclass(frozen=True)
class StepProfile:
    """One pass over `nodes` nodes behind `context` tokens; times are medians in milliseconds.

    total: the whole pass as it is; ops: by name, with the clock running around each, so that their
    sum with `other` (Python, transformers, small torch ops) can exceed the total a little.
    floor: what reading the weights and keys of the pass once takes at the bandwidth of this run.
    """

    context: int
    nodes: int
    total: float
    ops: dict[str, float]
    other: float
    floor: float


def profile_steps(
    engine: Engine, tokens: list[int], contexts: list[int], widths: list[int], repeats: int = 11
) -> tuple[float, list[StepProfile]]:
    """Bandwidth in GB/s, and a profile for each context and width; widths are interleaved.

    tokens: a text of at least the longest context.
    """
    bandwidth = stream_bandwidth()
    weights = sum(weight.nbytes for weight in engine.packing.weights.values())
    profiles = []
    for context in contexts:
        row = Row(
            0, 0, tokens[:context], context, context + 1, Sampler([], False, Noise(0)), context
        )
        cached = CachedModel(engine.target, FullView(), [row])
        trees = {n: TokenTree.chain(row.tokens[-1], tokens[1:n]) for n in widths}
        totals: dict[int, list[float]] = defaultdict(list)
        parts: dict[int, list[dict[str, float]]] = defaultdict(list)
        for _ in range(repeats):
            for n, tree in trees.items():
                totals[n].append(_seconds(partial(cached.forward, [row], [tree])))
        for _ in range(repeats):
            for n, tree in trees.items():
                with clocked() as seconds:
                    whole = _seconds(partial(cached.forward, [row], [tree]))
                parts[n].append({**seconds, "other": whole - sum(seconds.values())})
        keys = sum(x[:, :, :context].nbytes for x in (*cached.store.levels[-1].k,
                   *cached.store.levels[-1].v) if x is not None)  # fmt: skip
        for n in widths:
            ops = {k: 1e3 * statistics.median(p.get(k, 0.0) for p in parts[n]) for k in parts[n][0]}
            other = ops.pop("other")
            floor = (weights + keys) / bandwidth / 1e6
            total = 1e3 * statistics.median(totals[n])
            profiles.append(StepProfile(context, n, total, ops, other, floor))
    return bandwidth, profiles


def stream_bandwidth() -> float:
    """GB/s at which all threads together read memory, by a sum over 512 MiB."""
    x = torch.ones(STREAM_BYTES // 4)
    times = [_seconds(lambda: x.sum()) for _ in range(5)]
    return STREAM_BYTES / statistics.median(times) / 1e9


@contextmanager
def clocked() -> Iterator[dict[str, float]]:
    """Within this context each op adds its seconds to the dict, by name."""
    seconds: dict[str, float] = defaultdict(float)
    plain: Callable[..., Any] = Op.__call__

    def timed(op: Op[..., Any], *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        out = plain(op, *args, **kwargs)
        seconds[op.plain.__name__] += time.perf_counter() - start
        return out

    Op.__call__ = timed  # type: ignore[method-assign, assignment]
    try:
        yield seconds
    finally:
        Op.__call__ = plain  # type: ignore[method-assign]


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
