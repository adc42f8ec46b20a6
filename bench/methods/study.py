"""Study: methods measured cell by cell, kept in a file, so that it can be gone on with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from specdec.bench.methods.answering import Asked, answer, end_tokens, score
from specdec.bench.methods.drafting import Cell, drafts_along, own_text
from specdec.bench.methods.kept import Kept
from specdec.bench.methods.shared_context import SharedContext, asked
from specdec.bench.methods.texts import prompt
from specdec.bench.roster import named
from specdec.bench.views.attention_mass import Walk
from specdec.bench.views.drafted import DraftedView
from specdec.bench.workloads import ANY_PROMPT, Workload
from specdec.decoding.request import Request
from specdec.engine import Engine
from specdec.errors import InvalidArgument, SpecdecError, unknown_name
from specdec.forward.forward_pass import View
from specdec.forward.full_view import FullView
from specdec.forward.plan import Needs
from specdec.machine import facts
from specdec.registry import VIEWS
from specdec.sampling.noise import Noise
from specdec.sparse.importances.running import Together

Setting = tuple[str, int | None]  # a method's spec, and its budget in percent if it has one

SCHEMA = 1
TOGETHER = 8  # views that draft side by side: each has a level of its own
MODES = ("greedy", "sampled")
FULL = "full"
WHOLE: Setting = (FULL, None)  # what a method that leaves nothing out would have
ROOM = 256  # tokens behind a prompt

Step = Callable[[], None]


@dataclass
class Study:
    """All that was measured of an engine's model, as JSON can hold it, by name of the cell.

    names: of methods, with options of their own, as in "kivi:kv_bits=2", if any. texts: token ids
    to cut prompts from. tasks: prompts with the question in them, as RULER has
    them; shared: contexts that several questions share, which a method chooses from before it has
    seen one. budgets: percent of a text's tokens. depth, rounds: of drafts, greedy and sampled.
    """

    engine: Engine
    names: Sequence[str]
    budgets: Sequence[int]
    contexts: Sequence[int]
    texts: Mapping[str, list[int]]
    tasks: Sequence[Workload]
    shared: Sequence[SharedContext]
    depth: int = 8
    rounds: int = 3
    seed: int = 0
    cells: dict[str, Cell] = field(default_factory=dict)

    @property
    def settings(self) -> list[Setting]:
        """Every method with every budget, or once where it has none."""
        found: list[Setting] = []
        for name in self.names:
            has_budget = "budget" in VIEWS[named(name)[0]].options
            found += [(name, b) for b in self.budgets] if has_budget else [(name, None)]
        return found

    def run(self, save: Callable[[], None], progress: Callable[[int, int], None]) -> None:
        """Measure the cells that are missing, and `save` as they come: all methods behind all
        contexts of the first text, then all tasks, then the other texts, so that an interrupted
        run has the same of all methods, as far as it got."""
        drafts = [(n, name) for name in self.texts for n in self.contexts]
        missing = sum(
            2 * self.rounds * len(self._missing(f"{name} @ {n}", WHOLE)) for n, name in drafts
        ) + sum(len(self._missing(name)) for name in self._questions())
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            progress(done, missing)

        first = len(self.contexts)
        self._draft_all(drafts[:first], step, save)
        for shared in self.shared:
            self._ask(shared.context, asked(shared, self.engine.tokenizer), step, save)
        for workload in self.tasks:
            ids = workload.tokens(self.engine.tokenizer)
            self._ask(ids, [Asked(workload.name, [], workload.answers)], step, save)
        self._draft_all(drafts[first:], step, save)

    def document(self) -> dict[str, Any]:
        """What was measured, and how."""
        machine = facts()
        return {
            "schema": SCHEMA,
            "model": self.engine.name,
            "weights": str(self.engine.packing),
            "depth": self.depth,
            "rounds": self.rounds,
            "seed": self.seed,
            "machine": {name: machine[name] for name in ("cpu", "cores", "torch", "commit")},
            "cells": self.cells,
        }

    def take_up(self, document: Mapping[str, Any]) -> None:
        """Go on from a document. Raises InvalidArgument for another model's, or other settings."""
        mine = self.document()
        for name in ("schema", "model", "weights", "depth", "rounds", "seed"):
            if document.get(name) != mine[name]:
                raise InvalidArgument(
                    f"--out holds a measurement with {name} {document.get(name)!r}, and this one "
                    f"has {mine[name]!r}: give another folder"
                )
        self.cells = dict(document["cells"])

    def _draft_all(self, drafts: Sequence[tuple[int, str]], step: Step, save: Step) -> None:
        for context, name in drafts:
            ids = prompt(self.engine.tokenizer, name, self.texts[name], context)
            self._draft(f"{name} @ {context}", ids, step, save)

    def _draft(self, name: str, ids: list[int], step: Step, save: Step) -> None:
        views = self._views(name, self._missing(name, WHOLE), ids)
        if views:
            room = self.rounds * (self.depth + 1)
            walk = Walk(self.engine.target, ids, self.depth, room, needs_of(views.values()))
            kept = Kept(walk)
            noises = dict(zip(MODES, (None, Noise.of(self.seed, ids)), strict=True))
            texts = {mode: own_text(walk, room, noise) for mode, noise in noises.items()}
            notes = deepcopy(dict(kept.notes))
            for some in _groups(views, TOGETHER):
                drafted = {s: DraftedView(view, walk) for s, view in some.items()}
                found: dict[str, dict[Any, Cell]] = {}
                for mode, noise in noises.items():
                    walk.along(texts[mode])
                    kept.notes.clear()
                    kept.notes.update(deepcopy(notes))
                    found[mode] = drafts_along(walk, kept, drafted, noise, self.rounds, step)
                for setting in some:
                    self.cells[key(setting, name)] = {m: found[m][setting] for m in MODES}
                kept.forget()
                save()

    def _ask(self, ids: list[int], questions: Sequence[Asked], step: Step, save: Step) -> None:
        wanted = dict.fromkeys(s for q in questions for s in self._missing(q.name))
        if not wanted:
            return
        engine, tokenizer = self.engine, self.engine.tokenizer
        views = {s: view for s, view in self._views(questions[0].name, list(wanted), ids).items()}
        for setting in wanted.keys() - views.keys():
            for one in questions[1:]:
                self.cells[key(setting, one.name)] = self.cells[key(setting, questions[0].name)]
        walk = Walk(engine.target, ids, 1, ROOM, needs_of(views.values()))
        kept = Kept(walk)
        ends = self._ends
        full = DraftedView(FullView(), walk)
        known = [answer(full, one.question, ends, longest=one.longest) for one in questions]
        for one, theirs in zip(questions, known, strict=True):
            right = score(tokenizer, theirs.tokens, one.wanted)
            self.cells[key(WHOLE, one.name)] = {
                "score": right, "agreed": 1.0, "tokens": len(theirs.tokens), "read": 1.0,
            }  # fmt: skip
        before = None
        for setting, view in views.items():
            if setting[0] != before:
                kept.forget()
            before, drafted = setting[0], DraftedView(view, walk, is_lossy=True)
            for one, theirs in zip(questions, known, strict=True):
                cell: Cell
                try:
                    mine = answer(drafted, one.question, ends, theirs.tokens, one.longest)
                    read = sum(x.bytes + x.chosen_bytes for x in drafted.read[1:])
                    whole = sum(x.full_bytes for x in drafted.read[1:])
                    cell = {
                        "score": score(tokenizer, mine.tokens, one.wanted),
                        "agreed": round(mine.agreed, 4),
                        "tokens": len(mine.tokens),
                        "read": round(read / whole, 5) if whole else 1.0,
                    }
                except SpecdecError as error:
                    cell = {"error": f"{type(error).__name__}: {error}"}
                self.cells[key(setting, one.name)] = cell
                step()
            save()

    @cached_property
    def _ends(self) -> set[int]:
        eos = Request.parse(self.engine, ANY_PROMPT, {}).eos_token_ids
        return end_tokens(self.engine.tokenizer, eos)

    def _questions(self) -> list[str]:
        tokenizer = self.engine.tokenizer
        return [w.name for w in self.tasks] + [
            one.name for shared in self.shared for one in asked(shared, tokenizer)
        ]

    def _missing(self, name: str, *more: Setting) -> list[Setting]:
        settings = (*more, *self.settings)
        return [setting for setting in settings if key(setting, name) not in self.cells]

    def _views(
        self, name: str, settings: Sequence[Setting], ids: Sequence[int]
    ) -> dict[Setting, View]:
        """The views of methods; one that cannot be made has an error for its cell instead."""
        found: dict[Setting, View] = {}
        for setting in settings:
            spec, budget = setting
            view, given = named(spec)
            if budget is not None:
                given["budget"] = round(budget * len(ids) / 100)
            try:
                made = VIEWS[view].method(given)
                made = made.resolved(self.engine.target, self.engine.tokenizer)
                found[setting] = made.view(self.engine.target)
            except SpecdecError as error:
                self.cells[key(setting, name)] = {"error": f"{type(error).__name__}: {error}"}
        return found


def known_methods() -> list[str]:
    """The views that can be measured: all that leave something out, of texts read as one."""
    return [name for name, one in VIEWS.items() if name != FULL and not one.needs_documents]


def methods_for_texts() -> list[str]:
    """Those of them that are about texts; of images this table has none."""
    return [name for name in known_methods() if VIEWS[name].load().family != "visual tokens"]


def check_names(names: Sequence[str]) -> None:
    """Raise InvalidArgument for a name that is no method which can be measured, or has an option
    that the method has not."""
    for spec in names:
        name, given = named(spec)
        if name not in known_methods():
            raise unknown_name("view", name, known_methods())
        for option in given:
            if option not in VIEWS[name].options or option == "budget":
                have = ", ".join(VIEWS[name].options.keys() - {"budget"})
                raise InvalidArgument(f"{spec!r}: view {name!r} has {have} to set here")


def key(setting: Setting, name: str) -> str:
    """The name of a cell."""
    method, budget = setting
    return f"{method} | {'-' if budget is None else f'{budget} %'} | {name}"


def needs_of(views: Iterable[View]) -> Needs:
    """What all of them have to be shown, looked at once."""
    needs = Needs.all_of([view.needs for view in views])
    return replace(needs, followers=Together.of(needs.followers))


def _groups(views: Mapping[Setting, View], size: int) -> Iterator[dict[Any, View]]:
    """As many views as stand side by side, a method's budgets together."""
    group: dict[Any, View] = {}
    for setting, view in views.items():
        if len(group) >= size and setting[0] not in {spec for spec, _ in group}:
            yield group
            group = {}
        group[setting] = view
    if group:
        yield group
