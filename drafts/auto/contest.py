"""Contest: a round in which several candidates draft, and all of it is verified at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from specdec.control.acceptance import right
from specdec.control.controller import MOST, Controller, Offer
from specdec.drafts.auto.candidates import Part
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree
from specdec.sampling.verify import Verdict

CHEAP = 1.5  # a pass over all their nodes may take so many plain steps


@dataclass(eq=False)
class Contest:
    """Where a pass waits for keys and values from elsewhere, more nodes cost it next to nothing. So
    one round tells of every candidate how far it is right on this text, which would take a probe
    each otherwise, and emits what the best of them drafted.
    """

    entries: Sequence[tuple[Part, Offer]]
    depth: int
    trees: list[list[TokenTree]] = field(default_factory=list)  # of each entry
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def of(
        cls, offers: Sequence[tuple[Part, Offer]], rows: Sequence[Row], controller: Controller
    ) -> Contest | None:
        """One among those that draft with the target's own weights; None where there are not two,
        more nodes are dear, or what was drawn for one could tell of another (rejection)."""
        entries = [
            (part, offer)
            for part, offer in offers
            if part.traits.reads is not None and offer.width == part.traits.widths[0]
        ]
        if len(entries) < 2 or any(row.sampler.draws for row in rows):
            return None
        count, keys = len(rows), sum(len(row.tokens) for row in rows)
        passes = controller.costs.curve([count, count * (1 + MOST)], keys)
        if passes[1] > CHEAP * passes[0]:
            return None
        return cls(entries, depth_of([offer for _, offer in entries], count, keys, controller))

    @property
    def name(self) -> str:
        return "+".join(offer.name for _, offer in self.entries)

    def propose(
        self, rows: Sequence[Row], limits: Sequence[int], clock: Callable[[], float]
    ) -> list[TokenTree]:
        """The trees of all of them, one over the other."""
        trees = [TokenTree.root(row.tokens[-1]) for row in rows]
        for part, offer in self.entries:
            started = clock()
            depth = min(self.depth, offer.depth)
            mine = part.drafter.propose(rows, [min(limit, depth) for limit in limits])
            self.seconds.append(clock() - started)
            self.trees.append(mine)
            for tree, one in zip(trees, mine, strict=True):
                tree.graft(one)
        return trees

    def observe(
        self, rows: Sequence[Row], trees: Sequence[TokenTree], verdicts: Sequence[Verdict],
        controller: Controller, keys: int,
    ) -> None:  # fmt: skip
        """Tell each of them what became of the trees, and the controller how far each was right."""
        for (part, offer), mine, seconds in zip(
            self.entries, self.trees, self.seconds, strict=True
        ):
            outcomes = [
                right(tree, verdict.tokens) for tree, verdict in zip(mine, verdicts, strict=True)
            ]
            controller.note(offer, keys, seconds, outcomes)
            part.drafter.observe(rows, trees, verdicts)


def depth_of(offers: Sequence[Offer], rows: int, keys: int, controller: Controller) -> int:
    """How deep all draft: what promises most tokens per second of the round, which has to wait for
    each of them and emits what one has drafted."""
    level = sum(offer.width for offer in offers)
    most = MOST // level
    passes = controller.costs.curve([rows * (1 + n * level) for n in range(most + 1)], keys)
    costs = [controller.costs.draft_cost(offer.key, keys, offer.guess) for offer in offers]
    accepted = [controller.estimate(offer.name).expected(most) for offer in offers]

    def rate(n: int) -> float:
        seconds = passes[n] + sum(cost.seconds(n) for cost in costs)
        return (1.0 + max(each[n] for each in accepted)) / seconds

    return max(range(1, most + 1), key=rate)
