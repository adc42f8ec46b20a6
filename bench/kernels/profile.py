"""How near the kernels come to the memory's own speed, beside others' attention, and the goals."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from specdec import machine
from specdec.bench.kernels.attention_peers import SHAPES, Contestant, Layer, shared_prefix
from specdec.bench.kernels.checks import check
from specdec.errors import InvalidArgument
from specdec.kernels.dispatch import has_numba, has_triton

log = logging.getLogger("specdec")

COPIED = {"cuda": 1 << 30, "cpu": 1 << 28}  # bytes of a copy, beyond any cache
FLUSHED = 1 << 29  # bytes written before each run on a GPU, so that its caches hold nothing of use
SHARED_ROWS, SHARED_CONTEXT = 256, 16384


def profile_kernels(
    device: str,
    shapes: Sequence[str],
    contexts: Sequence[int],
    nodes: Sequence[int],
    repeats: int = 20,
) -> dict[str, Any]:
    """A document with the machine, checks of every op, timings, and goals met or missed.

    On a GPU: Triton in bfloat16, beside PyTorch's and others' attention. On a CPU: Numba and plain
    PyTorch in float32. A timing's `gb_s` are the bytes that the read *requires* over its median
    time, `share` that over a measured copy's. Raises InvalidArgument for a device or shape that is
    not there.
    """
    kind, dtype = _kind(device)
    for shape in shapes:
        if shape not in SHAPES:
            raise InvalidArgument(f"shapes={shape!r}: give one of {', '.join(SHAPES)}")
    copy = copy_bandwidth(device, repeats)
    timings = [
        {"shape": shape, "context": context, "nodes": count, **row}
        for shape in shapes
        for context in contexts
        for count in nodes
        for row in _timings(Layer(shape, context, count, device, dtype), kind, copy, repeats)
    ]
    return {
        "machine": machine.facts(),
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "copy_gb_s": copy,
        "checks": list(check(kind, device, dtype)),
        "timings": timings,
        "goals": goals(timings, _sharing(device, shapes, contexts, dtype, kind, repeats)),
    }


def _kind(device: str) -> tuple[str, torch.dtype]:
    if device == "cuda":
        if not torch.cuda.is_available():
            raise InvalidArgument("device='cuda': no CUDA device is here; 'cpu' times Numba")
        if not has_triton():
            raise InvalidArgument("device='cuda' needs triton: pip install triton")
        return "triton", torch.bfloat16
    if device != "cpu":
        raise InvalidArgument(f"device={device!r}: give 'cuda' or 'cpu'")
    if not has_numba():
        raise InvalidArgument("device='cpu' needs numba: pip install numba")
    return "numba", torch.float32


def copy_bandwidth(device: str, repeats: int) -> float:
    """GB/s of a device copy, bytes read and bytes written."""
    x = torch.ones(COPIED[device] // 4, device=device)
    y = torch.empty_like(x)
    return 2 * x.nbytes / 1e9 / median_seconds(lambda: y.copy_(x), device, repeats)


def median_seconds(run: Callable[[], object], device: str, repeats: int) -> float:
    """The median time of a run, after two that warm it up; on a GPU with empty caches."""
    run()
    run()
    times = []
    flush = torch.empty(FLUSHED, dtype=torch.int8, device=device) if device == "cuda" else None
    for _ in range(repeats):
        if flush is None:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
            continue
        flush.zero_()  # takes longer than the launches that follow it
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def _timings(layer: Layer, kind: str, copy: float, repeats: int) -> Iterator[dict[str, Any]]:
    own = [kind, "plain"] if layer.device == "cpu" else [kind]
    for version in own:
        for contestant in layer.ours(version):
            yield _timed(contestant, layer.device, copy, repeats)
    peers = layer.peers()
    while True:
        try:
            yield _timed(next(peers), layer.device, copy, repeats)
        except StopIteration:
            return
        except Exception as error:  # someone else's: it must not cost us our own figures
            log.warning("a peer could not be timed: %s", error)
            yield {"name": "a peer", "error": f"{type(error).__name__}: {error}"}


def _timed(contestant: Contestant, device: str, copy: float, repeats: int) -> dict[str, Any]:
    seconds = median_seconds(contestant.run, device, repeats)
    rate = contestant.bytes / 1e9 / seconds
    return {"name": contestant.name, "ms": 1e3 * seconds, "gb_s": rate, "share": rate / copy}


def _sharing(
    device: str,
    shapes: Sequence[str],
    contexts: Sequence[int],
    dtype: torch.dtype,
    kind: str,
    repeats: int,
) -> float | None:
    """How many times as fast a shared prefix is read as by each row; None if not measured."""
    if device == "cpu" or max(contexts) < SHARED_CONTEXT:
        return None
    pair = shared_prefix(shapes[0], SHARED_CONTEXT, SHARED_ROWS, device, dtype, kind)
    shared, each = (median_seconds(contestant.run, device, repeats) for contestant in pair)
    return each / shared


def goals(timings: Sequence[dict[str, Any]], sharing: float | None) -> list[dict[str, Any]]:
    """What is aimed for, the worst that was measured, and whether that meets it (None: unknown)."""
    reads = [row for row in timings if row["name"] == "prefix_attention"]
    long = [row for row in reads if row["context"] >= 1 << 16]
    few = min((row["share"] for row in long if row["nodes"] <= 16), default=None)
    many = min((row["share"] for row in long if row["nodes"] == 64), default=None)
    return [
        _goal("share of a copy's bandwidth, 64K+ and up to 16 nodes", 0.85, few, least=True),
        _goal("share of a copy's bandwidth, 64K+ and 64 nodes", 0.75, many, least=True),
        _goal("verification of 16 nodes, in times of 1", 1.1, _widening(timings), least=False),
        _goal("shared prefix of 16K, 256 rows, times as fast", 10.0, sharing, least=True),
    ]


def _widening(timings: Sequence[dict[str, Any]]) -> float | None:
    """The most that 16 nodes cost in times of 1, from 32K on."""
    by: dict[tuple[str, int, int], float] = {
        (row["shape"], row["context"], row["nodes"]): row["ms"]
        for row in timings
        if row["name"] == "verification" and row["context"] >= 1 << 15
    }
    wide = [(ms, (shape, context, 1)) for (shape, context, n), ms in by.items() if n == 16]
    return max((ms / by[narrow] for ms, narrow in wide if narrow in by), default=None)


def _goal(text: str, bound: float, value: float | None, *, least: bool) -> dict[str, Any]:
    met = None if value is None else (value >= bound if least else value <= bound)
    return {"goal": text, "least" if least else "most": bound, "measured": value, "met": met}
