"""Contest: a round in which several candidates draft, and all of it is verified at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from specdec.control.controller import MOST, Controller, Offer
from specdec.drafts.auto.candidates import Part
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree
from specdec.sampling.verify import Verdict

CHEAP = 1.5  # a pass over all their nodes may take so many plain steps
OWN = 0.85  # acceptance of a draft of the target's own weights, where nothing is known yet


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
        depth = MOST // (len(entries) * entries[0][1].width)
        count, keys = len(rows), sum(len(row.tokens) for row in rows)
        passes = controller.costs.curve([count, count * (1 + MOST)], keys)
        return cls(entries, depth) if passes[1] <= CHEAP * passes[0] else None

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


def right(tree: TokenTree, tokens: Sequence[int]) -> tuple[int, int]:
    """How deep a draft was, as far as the emitted `tokens` tell, and how much of it they are."""
    node, accepted = 0, 0
    for token in tokens:
        below = tree.child(node, token)
        if below is None:
            return max(tree.depths()), accepted
        node, accepted = below, accepted + 1
    return accepted, accepted
