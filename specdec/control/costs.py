"""PassCosts: how long passes of a model take on this machine, measured and kept up to date."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import uuid
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any

from specdec.control.ledger import Ledger

log = logging.getLogger("specdec")

RATE = 0.2  # how fast live measurements replace the table: two thirds of a change in five passes
SPIKE = 0.7  # a single pass counts as at most e ** 0.7 = 2 times as slow or fast as expected
OCTAVES = 10  # drift is kept for 1, 2, 4 ... 512 nodes
REACH = 3.0  # octaves over which a measurement speaks of its neighbours more than of all
_lock = Lock()  # of whoever replaces a table
SAVE_SHARE = 0.01  # of the time may be spent on writing them down
BATCH = 32  # a model reads a token of a long chunk so many times as fast as it drafts one: a guess

# Before anything was measured: 63 more nodes are as dear as two more passes.
UNMEASURED: dict[int, dict[int, float]] = {0: {1: 1.0, 64: 3.0}}


@dataclass
class DraftCost:
    """Seconds that one drafter takes: per draft token, and per token of text that it missed."""

    per_token: float
    per_missed: float
    count: int = 0

    def seconds(self, depth: int, missed: int = 0) -> float:
        """Of a draft of `depth` tokens by a drafter that was not asked for `missed` tokens."""
        return self.per_token * max(depth, 1) + self.per_missed * missed

    def note(self, depth: int, missed: int, seconds: float) -> None:
        """Learn from one draft, in place. The first may hold a cold start: the next replaces it."""
        depth, self.count = max(depth, 1), self.count + 1
        if self.count == 1:
            self.per_token = seconds / depth
            self.per_missed = self.per_token / BATCH
        elif missed > 8 * depth:
            rest = max(seconds - self.per_token * depth, 0.0) / missed
            self.per_missed += 0.5 * (rest - self.per_missed)
        else:
            sample = max(seconds - self.per_missed * missed, 0.1 * seconds) / depth
            if self.count == 2:
                self.per_token = min(self.per_token, sample)
            else:
                # It can be slow for many reasons, but fast only if it is fast.
                rate = RATE if sample > self.per_token else 0.8
                self.per_token += rate * (min(sample, 2 * self.per_token) - self.per_token)


@dataclass
class PassCosts:
    """Seconds of a pass over `nodes` tokens that reads `keys` tokens of context.

    Both are sums over the rows of a batch. `table[keys][nodes]` holds what was measured on purpose;
    between two entries the cost is a straight line. `drift` holds, per octave of nodes, the
    logarithm of how much slower passes are now: every pass is noted, at full weight for passes of
    about its size and at half for all others, since a busy machine slows all of them.

    Threads share it: a table is never changed, but replaced, and a note that is lost costs nothing.

    drafters: what whole drafts take, per drafter and octave of keys; acceptance: the share of its
    draft tokens that each drafter saw accepted in the long run; setups: seconds of what has to be
    done once in a process, by name, such as reading a drafter's weights. file: where all is kept.
    """

    table: dict[int, dict[int, float]] = field(default_factory=dict)
    drafters: dict[str, DraftCost] = field(default_factory=dict)
    acceptance: dict[str, float] = field(default_factory=dict)
    setups: dict[str, float] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    file: Path | None = None
    drift: list[float] = field(default_factory=lambda: [0.0] * OCTAVES)
    _saved: float = 0.0  # what was spent by then
    _save_s: float = 0.0  # what the last time took

    def seconds(self, nodes: int, keys: int) -> float:
        """The expected time of one pass, as things are now."""
        return self.curve([nodes], keys)[0]

    def curve(self, nodes: Sequence[int], keys: int) -> list[float]:
        """`seconds` for several sizes at once, in rising order."""
        return [
            cost * math.exp(_between(self.drift, math.log2(n)))
            for n, cost in zip(nodes, self._measured(nodes, keys), strict=True)
        ]

    def _measured(self, nodes: Sequence[int], keys: int) -> list[float]:
        """What passes took when they were measured on purpose."""
        table = self.table or UNMEASURED
        known = sorted(table)
        place = min(max(bisect_left(known, keys), 1), max(len(known) - 1, 1))
        low, high = known[place - 1], known[min(place, len(known) - 1)]
        costs = _line(table[low], nodes)
        if high == low:
            return costs
        share, pairs = (
            (keys - low) / (high - low),
            zip(costs, _line(table[high], nodes), strict=True),
        )
        if share < 0:  # beyond what was measured, no further than noise can be trusted
            return [max(cheap + share * (dear - cheap), 0.5 * cheap) for cheap, dear in pairs]
        if share <= 1:
            return [cheap + share * (dear - cheap) for cheap, dear in pairs]
        most = keys / high
        return [
            min(max(cheap + share * (dear - cheap), dear), dear * most) for cheap, dear in pairs
        ]

    def note(self, nodes: int, keys: int, seconds: float) -> float:
        """Learn from a pass that took place, in place; before anything was measured, nothing.

        Returns how many times as slow it was as when it was measured on purpose.
        """
        if not self.table:
            return 1.0
        where = math.log2(nodes)
        slower = math.log(max(seconds, 1e-9) / self._measured([nodes], keys)[0])
        surprise = max(-SPIKE, min(SPIKE, slower - _between(self.drift, where)))
        for octave in range(OCTAVES):
            near = max(0.0, 1.0 - abs(octave - where) / REACH)
            self.drift[octave] += RATE * surprise * (0.5 + 0.5 * near)
        return math.exp(slower)

    def learn(self, keys: int, measured: dict[int, float]) -> None:
        """Take up what was measured on purpose at so many keys."""
        with _lock:
            self.table = {**self.table, keys: measured}

    def measured_near(self, keys: int) -> bool:
        """Whether the table has an entry at about this length of context."""
        return any(abs(k - keys) <= max(256, min(k, keys)) for k in self.table)

    def draft_cost(self, key: str, keys: int, guess: float) -> DraftCost:
        """What drafter `key` takes at this length of context: an entry that learns, in place.

        One that is new starts from its neighbour's values, else from `guess` seconds per token.
        """
        octave = keys.bit_length()
        name = f"{key}@{octave}"
        if name not in self.drafters:
            near = [(abs(octave - int(n.rpartition("@")[2])), n)
                    for n in list(self.drafters) if n.rpartition("@")[0] == key]  # fmt: skip
            if near:
                known = self.drafters[min(near)[1]]
                self.drafters[name] = DraftCost(known.per_token, known.per_missed, known.count)
            else:
                self.drafters[name] = DraftCost(guess, guess / BATCH)
        return self.drafters[name]

    def save(self, is_due: bool = True) -> None:
        """Write everything to `file`, drift included; a folder that cannot be written is let be.

        is_due: otherwise only where that takes less than `SAVE_SHARE` of what was spent meanwhile.
        """
        if self.file is None or not self.table:
            return
        if not is_due and self._save_s > SAVE_SHARE * (self.ledger.spent - self._saved):
            return
        start = perf_counter()
        with _lock:
            self.table = {
                keys: dict(zip(sorted(row), self.curve(sorted(row), keys), strict=True))
                for keys, row in self.table.items()
            }
            self.drift = [0.0] * OCTAVES
        document = {
            "passes": self.table,
            "drafters": {
                name: [cost.per_token, cost.per_missed, cost.count]
                for name, cost in list(self.drafters.items())
                if cost.count
            },
            "acceptance": dict(self.acceptance),
            "setups": dict(self.setups),
            "ledger": [self.ledger.spent, self.ledger.credit],
        }
        unfinished = self.file.with_name(f".{uuid.uuid4().hex}")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(json.dumps(document, indent=1), "utf-8")
            os.replace(unfinished, self.file)
        except OSError as error:
            log.info("costs of passes are not kept: %s", error)
            with suppress(OSError):
                unfinished.unlink()
        self._saved, self._save_s = self.ledger.spent, perf_counter() - start


def _line(points: dict[int, float], xs: Sequence[int]) -> list[float]:
    """At rising xs, straight lines through measured points, and on past the last one with a slope
    >= 0."""
    known = sorted(points)
    place, line = 0, []
    for x in xs:
        while place < len(known) and known[place] < x:
            place += 1
        if place == 0 or len(known) == 1:
            line.append(points[known[0]])
            continue
        right = known[min(place, len(known) - 1)]
        left = known[min(place, len(known) - 1) - 1]
        slope = (points[right] - points[left]) / (right - left)
        line.append(points[right] + (x - right) * (slope if x <= right else max(0.0, slope)))
    return line


def _between(values: Sequence[float], x: float) -> float:
    """Straight lines through `values` at 0, 1, 2 ..., and no further."""
    place = min(max(int(x), 0), len(values) - 2)
    return values[place] + min(max(x - place, 0.0), 1.0) * (values[place + 1] - values[place])


def open_costs(folder: Path, about: dict[str, Any]) -> PassCosts:
    """The costs kept in `folder` of what `about` describes; one object for each in a process."""
    text = json.dumps(about, sort_keys=True, default=str)
    return _open(folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json")


@lru_cache(maxsize=64)
def _open(file: Path) -> PassCosts:
    try:
        document = json.loads(file.read_text("utf-8"))
        if any(not s > 0 for row in document["passes"].values() for s in row.values()):
            raise ValueError("a pass takes time")
        return PassCosts(
            {
                int(k): {int(n): float(s) for n, s in v.items()}
                for k, v in document["passes"].items()
            },
            {str(k): DraftCost(*v) for k, v in document["drafters"].items()},
            {str(k): float(v) for k, v in document["acceptance"].items()},
            {str(k): float(v) for k, v in document["setups"].items()},
            Ledger(*map(float, document["ledger"])),
            file,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return PassCosts(file=file)  # nothing there, or nothing to be trusted: measured anew
