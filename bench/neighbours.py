"""Neighbours: decoding alone and beside processes that decode too, in turns.

`profile_neighbours` starts processes of this module; each loads the model for one engine, ours or a
peer, then decodes when it is told to on standard input and answers with its speed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
from time import perf_counter
from types import SimpleNamespace
from typing import IO, Any

from specdec import Engine, machine
from specdec.bench import roster
from specdec.bench.contestants import Contestant, Ours
from specdec.errors import InvalidArgument
from specdec.threads import Threads

PROMPT = [1, 2, 3, 4]
TOKENS = 16  # of a text; texts follow each other until the time is over
OURS, FIXED = "specdec", "specdec, all threads"


def profile_neighbours(
    model: str,
    count: int,
    seconds: float,
    repeats: int,
    activations: str = "auto",
    baselines: Sequence[str] = (),
) -> dict[str, Any]:
    """Tokens per second by plain decoding, of one process alone and of 2 to `count` at once.

    Ours has the number of threads that an engine chooses and, as `FIXED`, all of them come what
    may; `baselines` are peers as in `specdec bench run`. Processes at once are of one engine. Every
    setting has a turn of `seconds` in each of `repeats` rounds. `engines` has, by name and number
    of processes, medians of the slowest one's `speed`, and its `share` of the speed alone; `loss`
    is the share of our speed alone that choosing costs.
    """
    if count < 2:
        raise InvalidArgument(f"processes={count}: a neighbour makes two of them")
    names = [OURS, FIXED, *baselines]
    settings = [(name, n) for n in range(1, count + 1) for name in names]
    speeds: dict[tuple[str, int], list[float]] = {setting: [] for setting in settings}
    with ExitStack() as running:
        workers = {
            name: [running.enter_context(_Worker(model, name, activations)) for _ in range(count)]
            for name in names
            if name != FIXED
        }
        for worker in (worker for some in workers.values() for worker in some):
            worker.answer()  # it has loaded
        for _ in range(repeats):
            for name, number in settings:
                chosen = workers[OURS if name == FIXED else name][:number]
                for worker in chosen:
                    worker.tell(seconds, name == FIXED)
                speeds[name, number].append(min(worker.answer()["speed"] for worker in chosen))
    medians = {setting: median(found) for setting, found in speeds.items()}
    return {
        "machine": machine.facts(),
        "model": model,
        "activations": activations,
        "engines": {
            name: [
                {"processes": n, "speed": medians[name, n],
                 "share": medians[name, n] / medians[name, 1], "turns": speeds[name, n]}
                for n in range(1, count + 1)
            ]
            for name in names
        },
        "loss": 1 - medians[OURS, 1] / medians[FIXED, 1],
    }  # fmt: skip


class _Worker:
    """A process that decodes when told to; it ends with the block."""

    def __init__(self, model: str, name: str, activations: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, model, name, activations],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONSAFEPATH": "1"},  # what is installed, wherever we are
        )  # fmt: skip

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *error: object) -> None:
        with self._process:  # closes its input, and waits
            self._input.close()

    @property
    def _input(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def tell(self, seconds: float, fixed: bool) -> None:
        """Have it decode for so long."""
        self._input.write(json.dumps([seconds, fixed]) + "\n")
        self._input.flush()

    def answer(self) -> dict[str, Any]:
        """What it says next."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise InvalidArgument("a process ended before it had decoded: see what it said above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def speed(contestant: Contestant, seconds: float) -> float:
    """Tokens per second of plain decoding for about so long; reading prompts is not counted."""
    tokens, spent, end = 0, 0.0, perf_counter() + seconds
    while not tokens or perf_counter() < end:
        rate = contestant.run(PROMPT, TOKENS, 0.0, 0).tokens_per_s
        tokens, spent = tokens + TOKENS - 1, spent + (TOKENS - 1) / rate
    return tokens / spent


def work(arguments: Sequence[str]) -> None:
    """The other end of `_Worker`."""
    import torch

    model, name, activations = arguments
    engine = None
    if name == OURS:
        engine = Engine.from_pretrained(model, activations=activations)
        contestant: Contestant = Ours(engine, OURS, "none")
        chosen, all_of_them = engine.target.threads, Threads(torch.get_num_threads())
    else:
        place = SimpleNamespace(dtype=torch.float32, device=torch.device("cpu"))
        (contestant,) = roster.baselines(place, model, [name], None, 64)
    speed(contestant, 0.0)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        seconds, fixed = json.loads(line)
        if engine is not None:
            engine.target.threads = all_of_them if fixed else chosen
        print(json.dumps({"speed": speed(contestant, seconds)}), flush=True)


if __name__ == "__main__":
    work(sys.argv[1:])
