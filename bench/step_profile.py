"""Where the milliseconds of a pass go, against the memory bandwidth of the same moment."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from specdec import machine
from specdec.bench.contestants import Stepper
from specdec.decoding.cached_model import CachedModel
from specdec.engine import Engine
from specdec.errors import InvalidArgument
from specdec.forward.full_view import FullView
from specdec.kernels.dispatch import Op
from specdec.model.fused_run import FusedRun
from specdec.registry import VIEWS
from specdec.sampling.noise import Noise
from specdec.sampling.sampler import Sampler
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree

STREAM_BYTES = 1 << 29  # beyond any cache


def profile_steps(
    engine: Engine,
    tokens: list[int],
    contexts: Sequence[int],
    widths: Sequence[int],
    views: Sequence[str] = (),
    budget: int = 512,
    repeats: int = 11,
    peers: Sequence[Stepper] = (),
    prompts: Sequence[int] = (),
) -> dict[str, Any]:
    """Milliseconds of passes over so many nodes (`widths`) behind so many tokens (`contexts`).

    tokens: a text of at least the longest context and prompt. views: sparse views whose draft pass
    over one node is timed at `budget`. peers: whose plain steps take turns with ours. prompts:
    lengths of texts that ours and the peers' take turns to read, up to the logits of the last
    token. Returns a document with the machine, the bandwidth in GB/s, a list of `prompts` with the
    median milliseconds of each, and a list of passes: `total` is the median
    of the pass as it is (widths and views take turns), `calls` the medians of the same with a
    clock around each op, `ops` those with layers called one by one that otherwise run in one call,
    each with the rest as `other` (Python, transformers), and `floor` what reading the weights and
    the keys once takes at that bandwidth. Where passes are graphs, `calls` holds the same pass
    `without_graphs` instead and `ops` nothing, since launches take no time by themselves.
    A peer has no more than its `total`.
    """
    if len(tokens) < max([*contexts, *prompts]) + 2 * repeats + 1:
        asked = f"contexts={list(contexts)}, prompts={list(prompts)}"
        raise InvalidArgument(f"{asked}: the text has {len(tokens)} tokens")
    packing = engine.packing
    passes = []
    before = stream_bandwidth(engine.device)
    for context in contexts:
        passes += _passes(engine, tokens, context, widths, views, budget, repeats, peers)
    read = [entry for n in prompts for entry in _readings(engine, tokens[:n], repeats, peers)]
    bandwidth = statistics.mean([before, stream_bandwidth(engine.device)])
    weights = sum(weight.nbytes for weight in packing.weights.values()) or _weight_bytes(engine)
    for entry in passes:
        if "kv_bytes" in entry:
            entry["floor"] = (weights + entry.pop("kv_bytes")) / bandwidth / 1e6
    return {
        "machine": machine.facts(),
        "model": engine.name,
        "weights": str(packing),
        "products": _instructions(engine),
        "bandwidth": bandwidth,
        "passes": passes,
        "prompts": read,
    }


def _instructions(engine: Engine) -> str | None:
    """By what whole numbers are multiplied; None where none are."""
    if not engine.target.is_rounded:
        return None
    from specdec.kernels.linear.stored.dots import KIND

    return KIND


def _readings(
    engine: Engine, text: list[int], repeats: int, peers: Sequence[Stepper]
) -> list[dict[str, Any]]:
    """One prompt: an entry for ours and for each peer."""
    times: dict[str, list[float]] = defaultdict(list)
    sampler = Sampler([], False, Noise(0))
    for _ in range(repeats):
        for peer in peers:
            times[peer.name].append(_seconds(partial(peer.read, text)))
        row = Row(0, 0, text, len(text), len(text) + 1, sampler, len(text))
        times["specdec"].append(_seconds(partial(_read, engine, row)))
    return [
        {"tokens": len(text), "who": name, "total": 1e3 * statistics.median(found)}
        for name, found in times.items()
    ]


def _read(engine: Engine, row: Row) -> None:
    """A prompt up to the logits of its last token."""
    model = CachedModel(engine.target, FullView(), [row])
    model.forward([row], [TokenTree.chain(row.tokens[-1], [])])


def _weight_bytes(engine: Engine) -> int:
    """Bytes of the weights that every pass reads: all but those of the embedding."""
    model = engine.model
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    skipped = set() if head is None else {id(embedding.weight)} - {id(head.weight)}
    return sum(p.nbytes for p in model.parameters() if id(p) not in skipped)


def stream_bandwidth(device: torch.device | str = "cpu") -> float:
    """GB/s at which the device reads memory (a CPU with all threads), by a sum over 512 MiB."""
    x = torch.ones(STREAM_BYTES // 4, device=device)
    times = [_seconds(x.sum) for _ in range(5)]
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

    with patch.object(Op, "__call__", timed):
        yield seconds


def _parts(run: Callable[[], object]) -> dict[str, float]:
    """The seconds of each op, and of the rest."""
    with clocked() as seconds:
        whole = _seconds(run)
    return {**seconds, "other": whole - sum(seconds.values())}


def _milliseconds(parts: list[dict[str, float]]) -> dict[str, float]:
    """The median of each part."""
    return {name: 1e3 * statistics.median(p[name] for p in parts) for name in parts[-1]}


def _passes(
    engine: Engine,
    tokens: list[int],
    context: int,
    widths: Sequence[int],
    views: Sequence[str],
    budget: int,
    repeats: int,
    peers: Sequence[Stepper],
) -> list[dict[str, Any]]:
    """One context: an entry for each width, one for each view, and one for each peer."""
    sampler = Sampler([], False, Noise(0))
    row = Row(0, 0, tokens[:context], context, context + repeats + 1, sampler, context)
    full = CachedModel(engine.target, FullView(), [row])
    runs: dict[str, tuple[CachedModel, int]] = {str(n): (full, n) for n in widths}
    for name in views:
        view = VIEWS[name].method({"budget": budget}).view(engine.target)
        runs[name] = CachedModel(engine.target, view, [row], base=full), 1
    totals: dict[str, list[float]] = defaultdict(list)
    calls: dict[str, list[dict[str, float]]] = defaultdict(list)
    ops: dict[str, list[dict[str, float]]] = defaultdict(list)
    for peer in peers:
        peer.read(tokens[:context])
    for turn in range(repeats):
        for peer in peers:  # a first step wakes its threads, as `run` does for ours
            peer.step(tokens[context + 2 * turn])
            step = partial(peer.step, tokens[context + 2 * turn + 1])
            totals[peer.name].append(_seconds(step))
        row.tokens.append(tokens[context + turn])  # as if a round had ended: drafts begin anew
        row.num_final = len(row.tokens)
        for name, (model, n) in runs.items():
            tree = TokenTree.chain(row.tokens[-1], tokens[1:n])
            run = partial(model.forward, [row], [tree], True)
            run()  # catches up with the text
            totals[name].append(_seconds(run))
            graphs = engine.target.graphs
            if graphs is not None:
                engine.target.graphs = None
                calls[name].append({"without_graphs": _seconds(run)})
                engine.target.graphs = graphs
                continue
            calls[name].append(_parts(run))
            with patch.object(FusedRun, "through", lambda *_: None):
                ops[name].append(_parts(run))
    level = full.store.levels[-1]
    keys = sum(x[:, :, :context].nbytes for x in (*level.k, *level.v) if x is not None)
    entries = []
    for name, (model, n) in runs.items():
        reads = model.reads(0).get(name)
        entries.append(
            {
                "context": context,
                "nodes": n,
                "view": name if name in views else "full",
                "total": 1e3 * statistics.median(totals[name]),
                "calls": _milliseconds(calls[name]),
                "ops": _milliseconds(ops[name]) if ops[name] else {},
                "kv_bytes": keys * (reads.bytes[-1] / reads.full_bytes[-1] if reads else 1.0),
            }
        )
    for peer in peers:
        total = 1e3 * statistics.median(totals[peer.name])
        entries.append({"context": context, "nodes": 1, "view": peer.name, "total": total})
    return entries


def _seconds(run: Callable[[], object]) -> float:
    """How long it takes, its work on a GPU included."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
