"""Neighbours: decoding alone and beside processes that decode too, in turns.

`profile_neighbours` starts processes of this module; each loads the model, then decodes when it is
told to on standard input and answers with its speed.
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
from typing import IO, Any

from specdec import Engine, machine
from specdec.errors import InvalidArgument
from specdec.threads import Threads

PROMPT = "Once upon a time"
TOKENS = 64  # of a text; texts follow each other until the time is over


def profile_neighbours(model: str, count: int, seconds: float, repeats: int) -> dict[str, Any]:
    """Tokens per second by plain decoding, of one process alone and of `count` at once.

    Both with the number of threads that an engine chooses and, as "fixed", with all of them come
    what may. Every setting has a turn of `seconds` in each of `repeats` rounds. The result has
    medians, of the slowest of several; `together_share` of the speed alone; and `loss`, the share
    that a process alone loses by choosing.
    """
    if count < 2:
        raise InvalidArgument(f"processes={count}: a neighbour makes two of them")
    settings = [(n, fixed) for n in (1, count) for fixed in (False, True)]
    speeds: dict[tuple[int, bool], list[float]] = {setting: [] for setting in settings}
    with ExitStack() as running:
        workers = [running.enter_context(_Worker(model)) for _ in range(count)]
        for worker in workers:
            worker.answer()  # it has loaded
        for _ in range(repeats):
            for number, fixed in settings:
                chosen = workers[:number]
                for worker in chosen:
                    worker.tell(seconds, fixed)
                speeds[number, fixed].append(min(worker.answer()["speed"] for worker in chosen))
    alone, fixed_alone, together, fixed_together = (median(speeds[s]) for s in settings)
    return {
        "machine": machine.facts(),
        "model": model,
        "processes": count,
        "alone": alone,
        "together": together,
        "together_share": together / alone,
        "fixed": {
            "alone": fixed_alone,
            "together": fixed_together,
            "together_share": fixed_together / fixed_alone,
        },
        "loss": 1 - alone / fixed_alone,
        "turns": [{"processes": n, "fixed": f, "speeds": speeds[n, f]} for n, f in settings],
    }


class _Worker:
    """A process that decodes when told to; it ends with the block."""

    def __init__(self, model: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, model],
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


def speed(engine: Engine, seconds: float) -> float:
    """Tokens per second of plain decoding for about so long; reading prompts is not counted."""
    tokens, spent, end = 0, 0.0, perf_counter() + seconds
    while not tokens or perf_counter() < end:
        stream = engine.stream(
            PROMPT, drafter="none", max_new_tokens=TOKENS, eos_token_id=[], temperature=0
        )
        next(stream)
        start = perf_counter()
        for step in stream:
            tokens += len(step.token_ids)
            if perf_counter() > end:
                break
        spent += perf_counter() - start
    return tokens / spent


def work(arguments: Sequence[str]) -> None:
    """The other end of `_Worker`."""
    import torch

    (model,) = arguments
    engine = Engine.from_pretrained(model)
    chosen, all_of_them = engine.target.threads, Threads(torch.get_num_threads())
    speed(engine, 0.0)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        seconds, fixed = json.loads(line)
        engine.target.threads = all_of_them if fixed else chosen
        print(json.dumps({"speed": speed(engine, seconds)}), flush=True)


if __name__ == "__main__":
    work(sys.argv[1:])
