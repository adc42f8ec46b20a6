"""Study: drafters side by side with keys and values behind a link, text by text, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from specdec import machine
from specdec.bench import roster
from specdec.bench.contestants import Ours
from specdec.bench.offload.passes import passes
from specdec.engine import Engine
from specdec.errors import InvalidArgument
from specdec.offload.kv_memory import KVMemory
from specdec.offload.saved_prompt import SavedPrompt

SCHEMA = 2
MEDIANS = ("tokens_per_s", "tokens_per_pass", "start_s", "fetched")
Cell = dict[str, Any]
Place = tuple[str, float | None]


@dataclass(eq=False)
class Study:
    """Passes by width, and texts by drafter, behind the last of `context` tokens of each prompt.

    prompts: tokens by name. places: tiers for what is older, each with the bytes per second that
    the link is slowed to (None: as fast as it is). drafters: as `bench run` has them, options of
    their own included; plain decoding always takes part. folder: where the prompts' keys and values
    are saved, and found by a later run. new_tokens: 0 for passes alone.
    Raises InvalidArgument for a prompt that is too short and for a drafter that cannot be asked.
    """

    engine: Engine
    prompts: Mapping[str, list[int]]
    context: int
    places: Sequence[Place]
    drafters: Sequence[str]
    folder: Path
    new_tokens: int = 64
    repeats: int = 3
    cells: list[Cell] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, tokens in self.prompts.items():
            if len(tokens) < self.context:
                raise InvalidArgument(
                    f"context={self.context}: the text {name!r} has {len(tokens)} tokens"
                )
        self._everyone = roster.ours(self.engine, self.drafters, {}) if self.new_tokens else []
        self._memories = {place: KVMemory(place[0], link=place[1]) for place in self.places}
        for tier, rate in self.places:
            self.cells.append({"tier": tier, "rate": rate, "link": None, "passes": {}, "texts": {}})

    def run(
        self,
        save: Callable[[], None] = lambda: None,
        progress: Callable[[int, int], None] = lambda done, total: None,
        time_limit: float | None = None,
    ) -> bool:
        """Measure what is missing, and `save` as it comes; whether all is there.

        time_limit: seconds, saving the prompts not counted, after which nothing more is begun.
        """
        saved = {name: self._saved(name) for name in self.prompts}
        before, begun = self.engine.target.kv_memory, perf_counter()
        missing = list(self._missing())
        try:
            for done, (place, cell, text, who) in enumerate(missing):
                if time_limit is not None and perf_counter() - begun > time_limit:
                    return False
                self.engine.target.kv_memory = memory = self._memories[place]
                if who is None:
                    cell["passes"] = passes(self.engine, saved[text], self.repeats)
                    cell["link"] = memory.pace.reached
                else:
                    self._take(cell, saved[text], text, who, memory)
                cell["device_bytes"] = memory.device.peak
                progress(done + 1, len(missing))
                save()
        finally:
            self.engine.target.kv_memory = before
        return True

    def document(self) -> dict[str, Any]:
        """What was measured, and how.

        Each of `cells` has the median seconds of `passes` by nodes, the bytes per second that its
        `link` reached, and `texts` by prompt and drafter: medians over `runs`, rounds by proposer
        of the last one, and whether its text was plain decoding's in all of them (`equal`).
        tokens_per_s is of decoding, what a drafter chooses on the way included; start_s is what
        came before: what was saved is laid out, and the drafter gets ready; fetched: bytes moved.
        """
        return {
            "schema": SCHEMA,
            "machine": machine.facts(),
            "model": self.engine.name,
            "weights": str(self.engine.packing),
            "context": self.context,
            "new_tokens": self.new_tokens,
            "cells": self.cells,
        }

    def take_up(self, document: Mapping[str, Any]) -> None:
        """Go on from a document. Raises InvalidArgument for another model's, or other settings."""
        mine = self.document()
        for name in ("schema", "model", "weights", "context", "new_tokens"):
            if document.get(name) != mine[name]:
                raise InvalidArgument(
                    f"--out holds a measurement with {name} {document.get(name)!r}, and this one "
                    f"has {mine[name]!r}: give another file"
                )
        known = {(cell["tier"], cell["rate"]): cell for cell in document["cells"]}
        self.cells = [known.pop((c["tier"], c["rate"]), c) for c in self.cells]
        self.cells += known.values()

    def _missing(self) -> Iterator[tuple[Place, Cell, str, Ours | None]]:
        """What is to be measured, turn by turn: passes (None), and texts by drafter."""
        cells = list(zip(self.places, self.cells, strict=False))
        for place, cell in cells:
            if not cell["passes"]:
                yield place, cell, next(iter(self.prompts)), None
        for turn in range(self.repeats):
            for text in self.prompts:
                for place, cell in cells:
                    for who in self._everyone:
                        known = cell["texts"].get(text, {}).get(who.name, {"runs": []})
                        if len(known["runs"]) <= turn:
                            yield place, cell, text, who

    def _take(self, cell: Cell, saved: SavedPrompt, text: str, who: Ours, memory: KVMemory) -> None:
        """One run of one drafter."""
        moved = memory.pace.moved
        asked = replace(who, options={**who.options, "saved_prompt": saved})
        run = asked.run(list(saved.tokens), self.new_tokens, 0.0, 0)
        assert run.stats is not None
        texts = cell["texts"].setdefault(text, {})
        plain = texts.setdefault(self._everyone[0].name, {}).setdefault("token_ids", run.token_ids)
        found = texts.setdefault(who.name, {})
        found.setdefault("runs", []).append(
            {
                "tokens_per_s": run.stats.tokens_per_s,
                "tokens_per_pass": run.stats.mean_acceptance_length,
                "start_s": run.stats.prefill_s + run.stats.calibration_s,
                "fetched": memory.pace.moved - moved,
            }
        )
        for name in MEDIANS:
            found[name] = statistics.median(run[name] for run in found["runs"])
        found["rounds"] = dict(run.stats.choices.most_common())
        found["equal"] = found.get("equal", True) and run.token_ids == plain

    def _saved(self, name: str) -> SavedPrompt:
        """The keys and values of a prompt, read by this model if they are not there."""
        tokens, place = self.prompts[name][: self.context], self.folder / name
        if place.exists():
            saved = SavedPrompt(place)
            if list(saved.tokens) == tokens:
                saved.check(self.engine.target)
                return saved
        return self.engine.save_prompt(tokens, place)
