"""Worlds of synthetic costs and acceptance, where every choice of a controller can be judged."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from specdec.control.controller import Controller, Offer
from specdec.control.costs import PassCosts
from specdec.control.sizes import Sizes

KEYS = 1000
WIDTHS = (1, 2, 4, 8, 16, 32, 64)


def flat(nodes, at=0):
    """A pass that costs hardly more for many nodes, as on a GPU."""
    return 1.0 + 0.01 * (nodes - 1)


def steep(nodes, at=0):
    """A pass whose cost grows with every node, as for a model that is bound by arithmetic."""
    return 1.0 + 0.3 * (nodes - 1)


@dataclass
class Drafter:
    """Of a world: its cost per token and its acceptance, both at a place in the text.

    instant drafters know the acceptance of the moment, up to a factor `boast`.
    """

    name: str
    cost: object  # place -> seconds per draft token
    chance: object  # place -> acceptance per token
    instant: bool = False
    boast: float = 1.0
    depth: int = 12
    read: float = 0.025  # cost of a token it missed, in costs of a draft token


@dataclass
class World:
    drafters: list[Drafter]
    passes: object = flat  # (nodes, place) -> seconds
    noise: float = 0.05  # relative, of every time
    rng: random.Random = field(default_factory=lambda: random.Random(7))

    def fixed(self, drafter, depth, tokens):
        """Seconds for a text when one drafter drafts so much in every round, in expectation."""
        place = seconds = 0.0
        while place < tokens:
            chance = drafter.chance(place) if drafter else 0.0
            seconds += self.passes(1 + depth, place)
            seconds += depth * drafter.cost(place) if drafter else 0.0
            place += sum(chance**i for i in range(depth + 1))
        return seconds

    def best_fixed(self, tokens):
        """The best of all drafters at all depths, each used throughout."""
        times = [self.fixed(d, n, tokens) for d in self.drafters for n in range(1, d.depth + 1)]
        return min(times)

    def play(self, tokens, controller=None):
        """Seconds that the controller takes, and the controller."""
        if controller is None:
            controller = Controller(self.costs())
        place = seconds = 0.0
        used = {d.name: 0 for d in self.drafters}
        while place < tokens:
            rests = controller.rests()
            offers = [
                self.offer(controller, d, place - used[d.name], place)
                for d in self.drafters
                if d.instant or not rests
            ]
            is_told = any(offer.nodes for offer in offers)
            again = controller.again(1) if rests and not is_told else None
            plan = again or controller.choose(1, KEYS, offers)
            drafter = next((d for d in self.drafters if d.name == plan.name), None)
            drafted = plan.depth or plan.nodes - 1
            draft = 0.0
            if drafter:
                read = (place - used[drafter.name]) * drafter.read
                draft = (drafted + read) * drafter.cost(place) * self.jitter()
            took = self.passes(1 + drafted, place) * self.jitter()
            accepted = 0
            while drafter and accepted < drafted and self.rng.random() < drafter.chance(place):
                accepted += 1
            controller.costs.note(1 + drafted, KEYS, took)
            controller.learn(plan, KEYS, draft, draft + took, [(drafted, accepted, accepted + 1)])
            place, seconds = place + accepted + 1, seconds + draft + took
            if drafter:
                used[drafter.name] = place
        return seconds, controller

    def offer(self, controller, d, missed, place):
        if not d.instant:
            missed = int(missed) if d.read else 0
            return Offer(d.name, d.name, depth=d.depth, missed=missed, guess=0.25, given=True)
        chance = min(0.999, d.boast * d.chance(place))
        chances = [chance**i for i in range(1, d.depth + 1)]
        size = Sizes.of(controller.costs, 1, KEYS, d.depth).best([chances])
        return Offer(d.name, nodes=size, tokens=sum(chances[:size]))

    def costs(self):
        return PassCosts({KEYS: {n: self.passes(n, 0) for n in WIDTHS}})

    def jitter(self):
        return max(0.5, self.rng.gauss(1.0, self.noise))


def always(value):
    return lambda place: value


def after(change, before, later):
    """One value until a place in the text, another one from there on."""
    return lambda place: before if place < change else later


def copying_then_prose(place):
    return 0.97 if place < 500 else 0.02


WORLDS = {
    "good model": World([Drafter("model", always(0.1), always(0.8))]),
    "fair model": World([Drafter("model", always(0.15), always(0.6))]),
    "always fails": World([Drafter("model", always(0.2), always(0.0))]),
    "always fails, steep": World([Drafter("model", always(0.1), always(0.0))], passes=steep),
    "slower than the target": World([Drafter("model", always(1.3), always(0.95))]),
    "copying turns into prose": World([Drafter("copy", always(0.0), copying_then_prose, True)]),
    "prose turns into copying, told": World(
        [Drafter("copy", always(0.0), after(500, 0.05, 0.97), True, depth=40)]
    ),
    "copying turns into prose, untold": World([Drafter("model", always(0.1), copying_then_prose)]),
    "two models": World(
        [
            Drafter("small", always(0.05), always(0.5)),
            Drafter("large", always(0.3), always(0.9)),
        ]
    ),
    "copy and model": World(
        [
            Drafter("copy", always(0.0), copying_then_prose, True),
            Drafter("model", always(0.1), always(0.7)),
        ]
    ),
    "wide passes become dear": World(
        [Drafter("model", always(0.1), always(0.7))],
        passes=lambda nodes, place: (flat if place < 700 else steep)(nodes),
    ),
    "wide passes become cheap": World(
        [Drafter("copy", always(0.0), always(0.7), True)],
        passes=lambda nodes, place: (steep if place < 300 else flat)(nodes),
    ),
    "a busy machine": World(
        [Drafter("model", always(0.15), always(0.6))],
        passes=lambda nodes, place: flat(nodes) * (3.0 if 400 < place < 900 else 1.0),
    ),
    "the drafter becomes slow": World([Drafter("model", after(500, 0.05, 2.0), always(0.8))]),
    "the drafter becomes fast": World(
        [Drafter("model", after(500, 2.0, 0.05), always(0.8), read=0.0)]
    ),
    "noise": World([Drafter("model", always(0.15), always(0.4))], noise=0.3),
}
