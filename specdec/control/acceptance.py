"""Acceptance: live estimates of how many draft tokens a drafter gets accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from math import prod
from operator import mul

from specdec.sampling.tree import TokenTree

MEMORY = 0.9  # what an observation weighs one round later: half after seven rounds
SHOCK, SHOCKED = 0.15, 0.6  # the same after an outcome so extreme that it was this unlikely
IDLE = 0.98  # and after a round in which the drafter was not asked
PRIOR = 0.6  # acceptance of a drafter that nobody knows yet
LONG_RATE = 0.05  # how fast it is learned, per draft token, what acceptance is in the long run
PRIOR_WEIGHT = 2.0  # of what is known from elsewhere, in observations
POOL_WEIGHT = 2.0  # of all depths together, for one depth


@dataclass
class Acceptance:
    """Of one drafter: how often a draft token is accepted, given that those before it were.

    A recent estimate per depth, drawn towards that of all depths together, which is drawn towards
    `prior`, what it was in the long run: so one rejected token says something of every depth. Old
    rounds fade, as the text changes, and all at once when it does something unheard of.
    """

    prior: float = PRIOR
    accepted: list[float] = field(default_factory=list)  # per depth, fading
    reached: list[float] = field(default_factory=list)
    share: float = 0.0  # of the draft tokens that were reached, summed over rounds, fading
    rounds: float = 0.0

    def chance(self, depth: int) -> float:
        """That the draft token at `depth` (from 1) is accepted if its parent was."""
        pooled = (self.share + PRIOR_WEIGHT * self.prior) / (self.rounds + PRIOR_WEIGHT)
        if depth > len(self.reached):
            return pooled
        accepted, reached = self.accepted[depth - 1], self.reached[depth - 1]
        return (accepted + POOL_WEIGHT * pooled) / (reached + POOL_WEIGHT)

    def expected(self, depth: int) -> list[float]:
        """Entry n: accepted draft tokens to expect of a draft of n tokens, for n = 0 ... depth."""
        paths = accumulate((self.chance(d) for d in range(1, depth + 1)), mul)
        return list(accumulate(chain([0.0], paths)))

    def note(self, drafted: int, accepted: int) -> None:
        """Learn from one draft of `drafted` tokens in depth, in place."""
        if not drafted:
            return
        missing = [0.0] * (drafted - len(self.reached))
        self.reached, self.accepted = [*self.reached, *missing], [*self.accepted, *missing]
        as_much = prod(self.chance(d) for d in range(1, accepted + 1))
        as_little = 1.0 - as_much * self.chance(accepted + 1) if accepted < drafted else 1.0
        self.fade(MEMORY if min(as_much, as_little) > SHOCK else SHOCKED)
        seen = min(drafted, accepted + 1)
        self.share, self.rounds = self.share + accepted / seen, self.rounds + 1.0
        self.prior += (1.0 - (1.0 - LONG_RATE) ** seen) * (accepted / seen - self.prior)
        for place in range(seen):
            self.reached[place] += 1.0
            self.accepted[place] += place < accepted

    def fade(self, memory: float) -> None:
        """Let what was seen count for less, in place."""
        self.reached = [n * memory for n in self.reached]
        self.accepted = [n * memory for n in self.accepted]
        self.share, self.rounds = self.share * memory, self.rounds * memory


@dataclass
class Trust:
    """Of a drafter whose trees say how likely their nodes are: how far it can be believed.

    Learned from every emitted token, whether the tree was verified or not: walking the tree along
    the text shows which of its nodes came true.
    """

    came: float = 4.0  # what came true of what was promised, fading towards 1
    promised: float = 4.0

    @property
    def factor(self) -> float:
        """What a promised chance is to be multiplied by."""
        return min(1.2, self.came / self.promised)

    def note(self, tree: TokenTree, tokens: Sequence[int]) -> None:
        """Learn from the `tokens` that were emitted where `tree` was proposed, in place."""
        if not tree.chances:
            return
        children, node, above = tree.children(), 0, 1.0
        for token in tokens:
            below = [child for child in children[node] if child in tree.chances]
            if not below:
                return
            hit = next((child for child in below if tree.tokens[child] == token), None)
            self.came = MEMORY * self.came + (hit is not None) + 4.0 * (1 - MEMORY)
            self.promised *= MEMORY
            self.promised += sum(tree.chances[child] for child in below) / above
            self.promised += 4.0 * (1 - MEMORY)
            if hit is None:
                return
            node, above = hit, max(tree.chances[hit], 1e-6)


def right(tree: TokenTree, tokens: Sequence[int]) -> tuple[int, int]:
    """How deep a draft was, as far as the emitted `tokens` tell, and how much of it they are."""
    node, accepted = 0, 0
    for token in tokens:
        below = tree.child(node, token)
        if below is None:
            return max(tree.depths()), accepted
        node, accepted = below, accepted + 1
    return accepted, accepted
