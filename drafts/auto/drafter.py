"""AutoDrafter: whoever brings the most tokens per second at the moment, or nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

from specdec.control.controller import Controller, Offer, Plan
from specdec.control.costs import PassCosts
from specdec.control.draft_length import FAR_DEPTH, KNOWN, OWN, REHEARSED
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.drafter import Drafter
from specdec.decoding.stats import Stats
from specdec.drafts.auto.candidates import MAX_DEPTH, Part, candidates, fits, joins
from specdec.drafts.auto.contest import Contest
from specdec.drafts.methods.auto import AutoOptions
from specdec.forward.plan import Needs
from specdec.forward.view_reads import ReadStats
from specdec.method import DrafterMethod
from specdec.model.target import Target
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree
from specdec.sampling.verify import Verdict

GUESS = 0.25  # plain steps that an unknown drafter is thought to take for a draft token
SHIPPED = 0.1  # seconds until it is known which drafters that ship fit, where nobody knows
SETUP = 0.5  # seconds until weights that ship have been read, where that was never timed


class AutoDrafter(Drafter):
    """Asks the controller in each round who should draft, and how much.

    n-gram drafts are made anyway, since they cost nothing, and are judged by what they promise and
    how far such promises came true. Drafters that run a model are judged before they draft, by
    their acceptance so far and their measured times, the time to catch up with the text included.

    Under `acceptance="rejection"`, too, the text keeps the target's law: whom it asks, and for how
    much, is settled before anything is drawn in the round, from the past and the clock alone.
    `num_draft_tokens` bounds the length of drafts; `draft_width` fixes the nodes per level.
    """

    name = "auto"
    Options: ClassVar[type[DrafterMethod]] = AutoOptions

    def __init__(
        self,
        target: Target,
        options: AutoOptions,
        controller: Callable[[PassCosts], Controller] = Controller,
    ) -> None:
        self.parts = list(candidates(target, options))
        self._shipped: Iterator[Part] | None = candidates(target, options, ships=True)
        self.limit = options.num_draft_tokens or 255
        self._given_depth = options.num_draft_tokens
        self._may_contest = False
        self.contest: Contest | None = None
        self.needs = Needs.all_of([Needs(costs=True), *(part.drafter.needs for part in self.parts)])
        self._make_controller = controller
        self._controller: Controller | None = None
        self._rows: dict[int, Row] = {}
        self._clock = target.clock
        self.started = self._clock()
        self._rotation = target.rotation

    def join(self, rows: Sequence[Row], verifier: CachedModel) -> None:
        is_first = self._controller is None
        if is_first:
            self._controller, self._verifier = self._make_controller(verifier.costs), verifier
            self._may_contest = is_far = bool(verifier.store.places)
            self.deepest = self._given_depth or (FAR_DEPTH if is_far else MAX_DEPTH)
            self._hope()
        self._rows |= {row.index: row for row in rows}
        for part in [part for part in self.parts if part.is_open]:
            self._meet(part, rows, is_first)

    def leave(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._rows.pop(row.index, None)
        for part in self.parts:
            if part.is_open:
                part.drafter.leave(rows)
            for row in rows:
                part.read.pop(row.index, None)

    def _meet(self, part: Part, rows: Sequence[Row], is_first: bool) -> bool:
        """Have a candidate meet rows, and be timed with the first ones; whether it goes on."""
        if not joins(part, rows, self._verifier):
            self.parts.remove(part)
            return False
        part.read.update({row.index: len(row.tokens) for row in rows})
        if is_first and not part.traits.instant:
            self._rehearse(part, rows)
        return True

    @property
    def controller(self) -> Controller:
        """Who chooses, by what was measured so far."""
        assert self._controller is not None, "no row has joined"
        return self._controller

    def propose(self, rows: Sequence[Row], limits: Sequence[int]) -> list[TokenTree]:
        self.started, self.part, self.contest, is_told = self._clock(), None, None, False
        limits = [min(limit, self.limit) for limit in limits]
        for part in self.parts:
            if part.traits.instant:
                part.trees = part.drafter.propose(rows, limits)
                is_told = is_told or any(len(tree) > 1 for tree in part.trees)
        controller, trees = self.controller, [TokenTree.root(row.tokens[-1]) for row in rows]
        rests = controller.rests()
        if rests and not is_told and (again := controller.again(len(rows))) is not None:
            self.plan = again
            return trees
        if not rests:
            self.take_shipped()
        self.keys = sum(len(row.tokens) for row in rows)
        offers = {
            offer.name: (part, offer)
            for part in self.parts
            if part.traits.instant or not rests
            for offer in self._offers(part, rows, max(limits))
        }
        self.plan = controller.choose(len(rows), self.keys, [offer for _, offer in offers.values()])
        if self._may_contest:
            self.contest = Contest.of(list(offers.values()), rows, controller)
            self._may_contest = False
        if self.contest is not None:
            trees = self.contest.propose(rows, limits, self._clock)
            self.plan = replace(self.plan, name=self.contest.name, depth=0, is_probe=False)
        elif self.plan.name in offers:
            self.part, offer = offers[self.plan.name]
            trees = self._draft(self.part, offer, self.plan, rows, limits)
            self.drafted = self._clock()
        return trees

    def observe(
        self, rows: Sequence[Row], trees: Sequence[TokenTree], verdicts: Sequence[Verdict]
    ) -> None:
        seconds, draft_s = self._clock() - self.started, 0.0
        if self.part is not None:
            draft_s = self.drafted - self.started
        for part in self.parts:
            if part.traits.instant:
                for tree, verdict in zip(part.trees, verdicts, strict=True):
                    part.trust.note(tree, verdict.tokens)
            if part.traits.instant or part is self.part:
                part.drafter.observe(rows, trees, verdicts)
        outcomes = [
            (0 if len(tree) == 1 else max(tree.depths()), verdict.num_accepted, len(verdict.tokens))
            for tree, verdict in zip(trees, verdicts, strict=True)
        ]
        self.controller.learn(self.plan, self.keys, draft_s, seconds, outcomes)
        if self.contest is not None:
            self.contest.observe(rows, trees, verdicts, self.controller, self.keys)

    def explain(self) -> list[str]:
        """What was chosen in which rounds, and why."""
        return [] if self._controller is None else self._controller.explain()

    def inner_stats(self, row: Row) -> dict[str, Stats]:
        """What inner levels of the candidates made of their drafters' tokens, for one row."""
        found: dict[str, Stats] = {}
        for part in self.parts:
            found |= part.drafter.inner_stats(row)
        return found

    def reads(self, row: Row) -> dict[str, ReadStats]:
        """What sparse views of the candidates read for one row, by name."""
        found: dict[str, ReadStats] = {}
        for part in self.parts:
            found |= part.drafter.reads(row)
        return found

    def _hope(self) -> None:
        """Expect something of drafts of the target's own weights where rounds are long and few."""
        if self._may_contest:
            for part in self.parts:
                if part.traits.reads is not None:
                    self.controller.costs.acceptance.setdefault(part.drafter.name, OWN)

    def _rehearse(self, part: Part, rows: Sequence[Row]) -> None:
        """Time drafts of one that is new to this machine and length of text, as passes are.

        A guess would be far off where a draft reads what is near and a pass what is behind a link,
        and the first draft may compile kernels, which no round should pay for. The draft tokens
        are thrown away.
        """
        room = min(row.max_tokens - len(row.tokens) - 1 for row in rows)
        if room < REHEARSED or not self._rotation.is_fixed:  # then rows may not draft together
            return
        self.keys = sum(len(row.tokens) for row in rows)
        for offer in [*self._offers(part, rows, REHEARSED)][:1]:  # wider levels are seldom tried
            cost = self.controller.costs.draft_cost(offer.key, self.keys, offer.guess)
            while cost.count < KNOWN:
                started = self._clock()
                part.drafter.propose(rows, [REHEARSED] * len(rows))
                cost.note(REHEARSED, 0, self._clock() - started)

    def _offers(self, part: Part, rows: Sequence[Row], limit: int) -> Iterator[Offer]:
        """What a candidate can do in this round."""
        traits, name = part.traits, part.drafter.name
        if traits.instant:
            promised = sum(sum(tree.chances.values()) for tree in part.trees)
            nodes = max(map(len, part.trees)) - 1
            yield Offer(name, nodes=nodes, tokens=part.trust.factor * promised)
            return
        depth = min(limit, traits.max_depth, self.deepest)
        if not fits(part, self.parts, rows):
            return
        if depth < 1 or (part.is_open and not any(part.drafter.takes(row) for row in rows)):
            return
        costs, missed, setup = self.controller.costs, 0, 0.0
        if not part.is_open:
            setup = costs.setups.get(name, SETUP) if part.drafter.is_cold else 0.0
        guess = GUESS * costs.seconds(len(rows), self.keys)
        if traits.reads is None:
            read = part.read
            missed = sum(len(row.tokens) - read.get(row.index, len(row.tokens)) for row in rows)
        elif traits.reads < self.keys:  # the target's own weights, on a part of its context
            guess = costs.seconds(len(rows), len(rows) * traits.reads)
        else:
            return  # it would read everything, as plain decoding does
        for width in traits.widths:
            kind = name if width == traits.widths[0] else f"{name} x{width}"
            key = f"{traits.cost_key} x{width}"
            yield Offer(
                kind, key, depth=depth, width=width, missed=missed, guess=guess, setup=setup,
                left=len(rows) * (limit + 1), given=part.given,
            )  # fmt: skip

    def take_shipped(self) -> None:
        """Have those take part whose weights ship, once this process can afford to find out who
        they are: importing their code takes its time, too."""
        costs = self.controller.costs
        if self._shipped is None or not costs.ledger.affords(costs.setups.get("shipped", SHIPPED)):
            return
        started = self._clock()
        parts, self._shipped = list(self._shipped), None
        self.parts += [part for part in parts if part.drafter.needs == Needs()]
        costs.setups["shipped"] = self._clock() - started
        self.started += self._clock() - started

    def _open(self, part: Part, rows: Sequence[Row]) -> bool:
        """Have a candidate read its weights and meet all rows; whether it can take part."""
        part.is_open, started = True, self._clock()
        is_there = self._meet(part, list(self._rows.values()), True)
        if part.drafter.is_cold:
            self.controller.costs.setups[part.drafter.name] = self._clock() - started
        self.started += self._clock() - started  # no draft takes so long again
        return is_there

    def _draft(
        self, part: Part, offer: Offer, plan: Plan, rows: Sequence[Row], limits: Sequence[int]
    ) -> list[TokenTree]:
        if part.traits.instant:
            return part.trees
        if not part.is_open and not self._open(part, rows):
            plain = self.controller.again(len(rows))
            assert plain is not None, "nothing was chosen"
            self.part, self.plan = None, plain
            return [TokenTree.root(row.tokens[-1]) for row in rows]
        if len(part.traits.widths) > 1:
            part.drafter.drafter.width = offer.width
        trees = part.drafter.propose(rows, [min(limit, plan.depth) for limit in limits])
        part.read.update({row.index: len(row.tokens) for row in rows})
        return trees
