"""The runner: every contestant on every workload, taking turns in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from specdec.bench import roster
from specdec.bench.contestants import Asked, Contestant, length
from specdec.bench.report.measurement import Cell, summarise
from specdec.bench.workloads import ANY_PROMPT, Workload
from specdec.decoding.request import Request
from specdec.decoding.stats import PLAIN
from specdec.engine import Engine
from specdec.errors import SpecdecError
from specdec.machine import facts

SCHEMA = 2
WARM_UP = 16  # new tokens of a run that nobody counts


@dataclass
class Plan:
    """What to measure: workloads, each at each temperature, and how often."""

    workloads: Sequence[Workload]
    repeats: int = 3
    temperatures: Sequence[float] = (0.0,)
    seed: int = 0
    max_new_tokens: int | None = None
    time_limit: float | None = None  # seconds after which no further turn is begun


def run(
    engine: Engine,
    model: Any,
    suite: str,
    plan: Plan,
    drafters: Sequence[str],
    baselines: Sequence[str],
    options: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure plain decoding, `drafters` and `baselines`; returns the JSON document of it all.

    `model` is what `engine` was loaded from: peers get a model of their own. Everyone warms up
    once; then come turns in which everyone runs every workload, so that a slow moment of the
    machine meets all alike. Ctrl-C, or the time limit, ends the turns and keeps what was measured;
    after Ctrl-C the document says `finished: False`. `progress` hears of runs done and runs in all.
    """
    options = options or {}
    asked = [(workload, workload.asked(engine)) for workload in plan.workloads]
    texts = [(w, prompt, t) for w, prompt in asked for t in plan.temperatures]
    ends = Request.parse(engine, ANY_PROMPT, {}).eos_token_ids
    counts = [_count(engine, plan, w, length(prompt)) for w, prompt, _ in texts]
    longest = max((length(x) + n for (_, x, _), n in zip(texts, counts, strict=True)), default=0)
    everyone: list[Contestant] = [
        *roster.ours(engine, drafters, options),
        *roster.baselines(engine, model, baselines, options.get("draft_model"), longest + 64),
    ]
    cells = [{c.name: Cell() for c in everyone} for _ in texts]
    total, done, turns = len(texts) * len(everyone) * plan.repeats, 0, 0
    start = time.perf_counter()
    try:
        for contestant in everyone:
            _take(Cell(), contestant, texts[0][1], WARM_UP, texts[0][2], plan.seed)
        for turn in range(plan.repeats):
            begun = time.perf_counter()
            for (_, prompt, temperature), count, row in zip(texts, counts, cells, strict=True):
                shift = (turn + done) % len(everyone)
                for contestant in [*everyone[shift:], *everyone[:shift]]:
                    _take(row[contestant.name], contestant, prompt, count, temperature, plan.seed)
                    done += 1
                    progress(done, total)
            turns += 1
            now = time.perf_counter()
            if plan.time_limit is not None and now - start + (now - begun) > plan.time_limit:
                break  # one more turn would not fit
        finished = True
    except KeyboardInterrupt:
        finished = False
    skipped = {
        workload.name: row[PLAIN].error
        for (workload, _, _), row in zip(texts, cells, strict=True)
        if row[PLAIN].error
    }
    rows = [
        summarise(workload, length(prompt), temperature, row, ends)
        for (workload, prompt, temperature), row in zip(texts, cells, strict=True)
        if row[PLAIN].runs
    ]
    return {
        "schema": SCHEMA,
        "suite": suite,
        "model": engine.name,
        "dtype": str(engine.dtype).removeprefix("torch."),
        "settings": {
            "drafters": list(drafters),
            "baselines": list(baselines),
            "options": {name: _plain(value) for name, value in options.items()},
            "repeats": max(turns, 1),
            "temperatures": list(plan.temperatures),
            "seed": plan.seed,
            "max_new_tokens": plan.max_new_tokens,
        },
        "machine": facts(),
        "seconds": time.perf_counter() - start,
        "finished": finished,
        "skipped": skipped,
        "workloads": rows,
    }


def _count(engine: Engine, plan: Plan, workload: Workload, tokens: int) -> int:
    wanted = workload.max_new_tokens
    if plan.max_new_tokens is not None and not workload.reads:
        wanted = plan.max_new_tokens
    return max(1, min(wanted, engine.target.longest_text - tokens))


def _take(
    cell: Cell, contestant: Contestant, prompt: Asked, count: int, temperature: float, seed: int
) -> None:
    """One run; a contestant that cannot do a workload says why, once, and the others go on."""
    if cell.error is not None:
        return
    try:
        cell.runs.append(contestant.run(prompt, count, temperature, seed))
    except (SpecdecError, ValueError, RuntimeError) as error:
        cell.error = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _plain(value: Any) -> Any:
    """A setting as JSON can hold it."""
    return value if isinstance(value, (int, float, str, type(None))) else str(value)
