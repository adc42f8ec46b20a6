"""Texts that a model has written, decoded once more: real drafters, a table for the model's time.

What drafts bring is what they brought; what passes take is drawn from a table with noise. So what
`auto` gains and loses can be counted on any machine, to the digit.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from specdec.control.costs import PassCosts
from specdec.decoding.asking import Asking
from specdec.decoding.drafter import Drafter, Traits
from specdec.drafts.auto.candidates import Part
from specdec.drafts.auto.drafter import AutoDrafter
from specdec.drafts.methods.auto import AutoOptions
from specdec.drafts.methods.ngram import NGramOptions
from specdec.drafts.ngram.drafter import NGramDrafter
from specdec.forward.rotation import Rotation
from specdec.sampling.tree import TokenTree
from specdec.sampling.verify import walk

from helpers.ngram_rows import row_of

TEXTS = Path(__file__).parents[2] / "control" / "texts.json"
# Milliseconds of passes over so many nodes behind some hundred tokens, two cores with AVX-512:
# `specdec bench step`, and for the wide ones the rounds in bench/results/front.
MACHINES = {
    "demo": {1: 5.4, 2: 5.7, 4: 6.6, 8: 9.3, 16: 12.6, 32: 19.0, 64: 31.0},
    "1b": {1: 21.0, 2: 24.2, 4: 30.2, 8: 39.0, 16: 59.7, 32: 101.0, 64: 184.0},
    "flat": {1: 20.0, 2: 20.2, 4: 20.4, 8: 21.0, 16: 22.0, 32: 24.0, 64: 30.0},
}
# Seconds beyond plain decoding of a round, and of each row in it, measured in place.
PYTHON = {"ngram": (0.0, 5e-5), "auto": (3e-5, 5e-5)}
KEYS = 500


def texts() -> dict[str, dict[str, dict[str, list[int]]]]:
    """Prompt and greedy answer of the quick suite's tasks, by model and task, as token ids."""
    found: dict[str, dict[str, dict[str, list[int]]]] = json.loads(TEXTS.read_text("utf-8"))
    return found


@dataclass
class Machine:
    """Where passes take what a table says, in milliseconds, times noise; and a clock."""

    table: dict[int, float]
    noise: float = 0.03
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    now: float = 0.0

    def __post_init__(self) -> None:
        self.truth = PassCosts({KEYS: {n: ms / 1e3 for n, ms in self.table.items()}})

    def calibrated(self, error: float = 0.05) -> PassCosts:
        """What was measured of it on purpose, with so large an error."""
        return PassCosts(
            {KEYS: {n: s * self.rng.gauss(1.0, error) for n, s in self.truth.table[KEYS].items()}}
        )

    def run(self, nodes: int) -> float:
        """A pass; the seconds it took."""
        took = self.truth.seconds(nodes, KEYS) * max(0.5, self.rng.gauss(1.0, self.noise))
        self.now += took
        return took


class Guesser(Drafter):
    """Runs a model that takes `cost` seconds a token and is right in a share of the cases."""

    name = "guesser"

    def __init__(self, machine: Machine, future: dict[int, list[int]], cost: float, right: float):
        self.machine, self.future, self.cost, self.right = machine, future, cost, right
        self.traits = Traits("guesser", 12)

    def propose(self, rows: Sequence[Any], limits: Sequence[int]) -> list[TokenTree]:
        depth = min(12, *limits)
        self.machine.now += self.cost * depth
        trees = []
        for row in rows:
            ahead = self.future[row.index][len(row.tokens) :][:depth]
            tokens = [t if self.machine.rng.random() < self.right else -1 for t in ahead]
            trees.append(TokenTree.chain(row.tokens[-1], tokens, self.name))
        return trees

    def observe(self, rows: Any, trees: Any, verdicts: Any) -> None:
        """Nothing to learn."""


def auto(
    machine: Machine, more: Sequence[Callable[[dict[int, list[int]]], Drafter]] = ()
) -> Callable[[dict[int, list[int]]], AutoDrafter]:
    """`auto` with n-grams, and with `more` drafters that nobody has asked for."""

    def make(future: dict[int, list[int]]) -> AutoDrafter:
        made = [NGramDrafter(None, NGramOptions()), *(one(future) for one in more)]
        parts = [Part(Asking(drafter), drafter.traits) for drafter in made]
        target: Any = SimpleNamespace(clock=lambda: machine.now, rotation=Rotation())

        def candidates(target: Any, options: AutoOptions, ships: bool = False) -> list[Part]:
            return [] if ships else parts

        with patch("specdec.drafts.auto.drafter.candidates", candidates):
            return AutoDrafter(target, AutoOptions())

    return make


def ngram(future: dict[int, list[int]]) -> NGramDrafter:
    return NGramDrafter(None, NGramOptions())


def plain(machine: Machine, answers: Sequence[dict[str, list[int]]]) -> float:
    """Seconds of plain decoding, without noise."""
    counts = sorted(len(answer["text"]) for answer in answers)
    return sum(machine.truth.seconds(sum(n > i for n in counts), KEYS) for i in range(counts[-1]))


def play(
    machine: Machine,
    costs: PassCosts,
    make: Callable[[dict[int, list[int]]], Drafter],
    answers: Sequence[dict[str, list[int]]],
) -> float:
    """Seconds until all answers are written, side by side, with one drafter."""
    rows = [row_of(one["prompt"], index=i) for i, one in enumerate(answers)]
    future = {i: [*one["prompt"], *one["text"]] for i, one in enumerate(answers)}
    for row in rows:
        row.max_tokens = len(future[row.index])
    drafter = make(future)
    per_round, per_row = PYTHON["auto" if isinstance(drafter, AutoDrafter) else "ngram"]
    verifier: Any = SimpleNamespace(costs=costs, store=SimpleNamespace(places=""))
    for row in rows:
        row.sampler = SimpleNamespace(draws=False)
    start = machine.now
    drafter.join(rows, verifier)
    while rows:
        limits = [row.max_tokens - len(row.tokens) - 1 for row in rows]
        trees = [
            tree.cropped(256, limit)
            for tree, limit in zip(drafter.propose(rows, limits), limits, strict=True)
        ]
        nodes = len(rows) * max(map(len, trees))
        costs.note(nodes, KEYS, machine.run(nodes))
        machine.now += per_round + per_row * len(rows)
        verdicts = []
        for row, tree in zip(rows, trees, strict=True):
            known, depths, at = future[row.index], tree.depths(), len(row.tokens)
            verdicts.append(walk(tree, lambda node, d=depths, s=at, k=known: k[s + d[node]]))
            row.tokens += verdicts[-1].tokens
            row.num_final, row.round = len(row.tokens), row.round + 1
        drafter.observe(rows, trees, verdicts)
        done = [row for row in rows if len(row.tokens) == row.max_tokens]
        drafter.leave(done)
        rows = [row for row in rows if row not in done]
    return machine.now - start
