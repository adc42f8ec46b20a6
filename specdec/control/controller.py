"""Controller: who drafts in the next round, and how much, for the most tokens per second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import NamedTuple

from specdec.control.acceptance import IDLE, PRIOR, Acceptance
from specdec.control.costs import PassCosts
from specdec.control.ledger import READ_SHARE
from specdec.control.sizes import MARGIN, Sizes

PLAIN = "plain"
MOST = 63  # draft nodes of a row, at most
STEADY = 4  # rounds for which costs of passes are taken to be what they were
LONGEST_REST = 16  # rounds in which drafters of no use now are not asked: doubled at each answer
HORIZON = 32  # rounds over which reading what a drafter missed is expected to pay back
FIRST_WAIT, LONGEST_WAIT = 4, 64  # rounds between probes of one drafter: doubled at each
SURE = 1.5  # speculation that promises more needs no look at what plain decoding costs now
WORTH = 1.2  # a drafter that could not bring so much if it were always right is not even tried
TUITION = 3  # drafts that a user's drafter new to this machine gets, whatever they cost


@dataclass(frozen=True)
class Offer:
    """What a drafter can do in a round.

    name: who; key: under which its costs are kept. `nodes` and `tokens` of a draft that is there
    already: nodes per row, and draft tokens that are expected to be accepted over all rows.
    Otherwise: `depth` it can reach, `width` nodes a level, `missed` tokens of text to catch up with
    and a `guess` of its seconds per draft token, for the time before it was measured. setup:
    seconds before it can draft at all, in a call that may yet emit `left` tokens. given: the user
    brought it, so that trying it is worth something.
    """

    name: str
    key: str = ""
    nodes: int = 0
    tokens: float = 0.0
    depth: int = 0
    width: int = 1
    missed: int = 0
    guess: float = 0.0
    setup: float = 0.0
    left: int = 0
    given: bool = False


@dataclass(frozen=True)
class Plan:
    """A way to spend the next round: `tokens` to expect of it and the `seconds` it takes.

    depth: of the draft to ask for (0: none, or it is there already); nodes: in the target's pass.
    missed, catch_up: text to catch up with, and what that takes beyond its share in `seconds`.
    setup: as in `Offer`; `seconds` have a share of it, too. ceiling: tokens per second if every
    draft token were accepted. new: the user brought a drafter that was measured less often than
    `TUITION` asks; count: how often that was. is_guess: nobody brought it, or knows its cost.
    speedup: promised, over plain decoding.
    """

    name: str
    nodes: int
    tokens: float
    seconds: float
    key: str = ""
    depth: int = 0
    missed: int = 0
    catch_up: float = 0.0
    setup: float = 0.0
    ceiling: float = 0.0
    count: int = 0
    new: bool = False
    is_guess: bool = False
    speedup: float = 1.0
    is_probe: bool = False

    @property
    def rate(self) -> float:
        """Expected tokens per second."""
        return self.tokens / self.seconds


class Decision(NamedTuple):
    """What was chosen in a round, what the best draft promised over plain, and what came of it."""

    plan: Plan
    promised: float
    tokens: int
    seconds: float


@dataclass
class Controller:
    """Chooses by expected tokens per second, from measured costs and live acceptance.

    It never looks at a draft token, only at lengths, times and what was accepted before; so under
    every acceptance rule the text keeps the target's law. What it has not tried for a while it
    probes: each time after twice as long a wait, and only if the loss, should nothing be accepted,
    is covered by the `Ledger`, and the drafter can catch up with the text in `READ_SHARE` of the
    time since it was last used. Weights are read for a drafter that is known to pay for that in the
    text to come, or in so much of the time; of all calls' time, where nobody knows it yet.
    """

    costs: PassCosts
    acceptance: dict[str, Acceptance] = field(default_factory=dict)
    history: list[Decision] = field(default_factory=list)
    elapsed: float = 0.0  # seconds of all rounds
    # Of each: the round after its last one, and the seconds that had passed by then.
    _tried: dict[str, tuple[int, float]] = field(default_factory=dict)
    _wait: dict[str, int] = field(default_factory=dict)
    _faded: dict[str, int] = field(default_factory=dict)  # the round up to which estimates are
    _best: Plan | None = None
    _promised: float = 0.0
    _sizes: Sizes | None = None
    _sized: int = 0  # in which round
    _plain: Plan | None = None
    _rest: int = 1  # for how many rounds the last answers of drafters that run a model stand
    _left: int = 0  # of those to come

    def choose(self, rows: int, keys: int, offers: Sequence[Offer]) -> Plan:
        """The plan for a round of `rows` texts with `keys` tokens in all, given what is offered."""
        passes = self._passes(rows, keys)
        plain = Plan(PLAIN, rows, float(rows), passes[0])
        plans = [self._plan(offer, rows, keys, plain, passes) for offer in offers]
        plans = [plan for plan in plans if plan.nodes > rows]
        known = (plan for plan in plans if not plan.is_guess)
        best = max(known, key=lambda plan: plan.rate, default=plain)
        self._promised, self._plain = best.speedup, plain
        if best.rate < MARGIN * plain.rate:
            best = plain
        self._best = plan = best
        if self._left < 0:  # all were asked
            could_pay = any(p.depth and not p.is_guess and p.speedup >= MARGIN for p in plans)
            self._rest = 1 if could_pay else min(2 * self._rest, LONGEST_REST)
            self._left = self._rest - 1
        probes = [p for p in [*plans, plain] if self._may_probe(p, best, rows)]
        if probes:
            plan = replace(max(probes, key=lambda p: p.rate), is_probe=True)
            self._wait[plan.name] = min(2 * self._wait.get(plan.name, FIRST_WAIT), LONGEST_WAIT)
        else:
            self._wait[plan.name] = FIRST_WAIT
        self._tried[plan.name] = len(self.history) + 1, self.elapsed
        return plan

    def rests(self) -> bool:
        """Whether no drafter that runs a model need be offered in this round: none of them could
        pay when they were last. They are asked ever more seldom, since asking takes its time, too.
        """
        self._left -= 1
        return self._left >= 0

    def again(self, rows: int) -> Plan | None:
        """The plain step of the last choice, in a round in which nothing is offered; None where
        that was of another number of rows."""
        plain = self._plain
        if plain is None or plain.nodes != rows:
            return None
        self._best = plain
        return plain

    def learn(
        self,
        plan: Plan,
        keys: int,
        draft_s: float,
        seconds: float,
        outcomes: Sequence[tuple[int, int, int]],
    ) -> None:
        """Take up what came of a plan, in place: seconds of the draft and of the whole round.

        outcomes: (depth of the draft, accepted draft tokens, emitted tokens) of each row.
        """
        assert self._best is not None
        emitted = sum(tokens for _, _, tokens in outcomes)
        self.history.append(Decision(plan, self._promised, emitted, seconds))
        self.elapsed += seconds
        lost = max(0.0, seconds - emitted / self._best.rate) if plan.is_probe else 0.0
        self.costs.ledger.note(seconds, lost)
        if plan.depth:
            self._faded[plan.name] = len(self.history)
            self.note(plan, keys, draft_s, [outcome[:2] for outcome in outcomes])

    def note(
        self, draft: Plan | Offer, keys: int, seconds: float, outcomes: Sequence[tuple[int, int]]
    ) -> None:
        """Take up what a draft took and what became of it, in place: its depth and how much of it
        was accepted, of each row."""
        deepest = max(depth for depth, _ in outcomes)
        self.costs.draft_cost(draft.key, keys, 0.0).note(deepest, draft.missed, seconds)
        for depth, accepted in outcomes:
            if depth:
                self.estimate(draft.name).note(depth, accepted)
                self.costs.acceptance[draft.name] = self.estimate(draft.name).prior

    def estimate(self, name: str) -> Acceptance:
        """The live acceptance of a drafter, which starts from what it was in earlier calls."""
        rounds = len(self.history)
        if name not in self.acceptance:
            self.acceptance[name] = Acceptance(self.costs.acceptance.get(name, PRIOR))
        elif idle := max(0, rounds - self._faded[name]):
            self.acceptance[name].fade(IDLE**idle)
        self._faded[name] = rounds
        return self.acceptance[name]

    def explain(self) -> list[str]:
        """The choices so far, a line for each stretch of rounds in which they were alike."""
        lines, first = [], 1
        for (name, probe), stretch in groupby(
            self.history, lambda decision: (decision.plan.name, decision.plan.is_probe)
        ):
            rounds = list(stretch)
            count, last = len(rounds), first + len(rounds) - 1
            where = f"round {first}" if count == 1 else f"rounds {first}-{last}"
            tokens = sum(decision.tokens for decision in rounds) / count
            took = sum(decision.seconds for decision in rounds) / count
            if name == PLAIN:
                promised = max(decision.promised for decision in rounds)
                why = f"best draft promised {promised:.2f}x" if not probe else "to know its cost"
            else:
                mean = sum(decision.plan.speedup for decision in rounds) / count
                why = f"promised {mean:.2f}x" + (", a probe" if probe else "")
            lines.append(
                f"{where}: {name} ({why}; {tokens:.1f} tokens in {1e3 * took:.1f} ms a round)"
            )
            first = last + 1
        return lines

    def _plan(self, offer: Offer, rows: int, keys: int, plain: Plan, passes: list[float]) -> Plan:
        """The best an offer has: the depth with the most tokens per second."""
        if not offer.depth:
            nodes, tokens = rows * (1 + offer.nodes), rows + offer.tokens
            seconds = passes[offer.nodes]
            return Plan(offer.name, nodes, tokens, seconds, speedup=tokens / seconds / plain.rate)
        cost = self.costs.draft_cost(offer.key, keys, offer.guess)
        accepted = self.estimate(offer.name).expected(offer.depth)
        catch_up = cost.per_missed * offer.missed
        per_token = offer.setup / max(offer.left, 1)
        best, best_rate, ceiling, best_s = 1, 0.0, 0.0, 1.0
        for depth in range(1, min(offer.depth, MOST // offer.width) + 1):
            seconds = passes[offer.width * depth] + cost.seconds(depth) + catch_up / HORIZON
            seconds += per_token * rows * (1 + accepted[depth])
            ceiling = max(ceiling, rows * (1 + depth) / seconds)
            rate = rows * (1 + accepted[depth]) / seconds
            if rate > best_rate:
                best, best_rate, best_s = depth, rate, seconds
        return Plan(
            name=offer.name,
            nodes=rows * (1 + offer.width * best),
            tokens=rows * (1 + accepted[best]),
            seconds=best_s,
            key=offer.key,
            depth=best,
            missed=offer.missed,
            catch_up=catch_up * (1 - 1 / HORIZON),
            setup=offer.setup,
            ceiling=ceiling,
            count=cost.count,
            new=offer.given and cost.count < TUITION,
            is_guess=not offer.given and not cost.count,
            speedup=best_rate / plain.rate,
        )

    def _passes(self, rows: int, keys: int) -> list[float]:
        """Seconds of passes with 0, 1, 2 ... draft nodes a row; worked out every few rounds."""
        now = len(self.history)
        if self._sizes is None or self._sizes.rows != rows or now - self._sized >= STEADY:
            self._sizes, self._sized = Sizes.of(self.costs, rows, keys, MOST), now
        return self._sizes.seconds

    def _may_probe(self, plan: Plan, best: Plan, rows: int) -> bool:
        """Whether to try `plan` instead of `best`, in order to learn."""
        if plan.name == best.name:
            return False
        wait = self._wait.get(plan.name, FIRST_WAIT)
        if plan.name == PLAIN:
            if best.speedup > SURE:
                return False
        elif not plan.depth:
            return False  # what its drafts are worth is seen without trying
        elif plan.ceiling < WORTH * best.rate:
            if not plan.count:
                return False  # never tried, and by a guess of its cost it can hardly pay
            wait = LONGEST_WAIT if plan.count > 1 else 0  # the first draft may be a cold start
        elif plan.new:
            return True
        round_, then = self._tried.get(plan.name, (0, 0.0))
        if len(self.history) - round_ < wait:
            return False
        ledger, since = self.costs.ledger, self.elapsed - then
        if plan.setup > READ_SHARE * (ledger.spent if plan.is_guess else since):
            return False
        if plan.catch_up > READ_SHARE * since:
            return False
        assert self._plain is not None
        return ledger.covers(plan.seconds - rows / best.rate, self._plain.seconds)
