"""DraftLength: how many tokens a round drafts where its pass waits for keys and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from specdec.control.acceptance import Acceptance, right
from specdec.control.costs import DraftCost, PassCosts
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree
from specdec.sampling.verify import Verdict

FAR_DEPTH = 32  # draft tokens at most where verifying has to fetch what it reads
OWN = 0.85  # acceptance of a draft of the target's own weights, where nothing is known yet
REHEARSED, KNOWN = 2, 2  # draft tokens of a rehearsal; drafts that tell the cost: one may be cold

Propose = Callable[[Sequence[Row], Sequence[int]], list[TokenTree]]


@dataclass
class DraftLength:
    """Of one drafter of chains, where nobody gave a number: what promises most tokens per second.

    n draft tokens promise (rows + accepted(n)) / (pass(n) + draft(n)). A pass that waits for a link
    takes hardly longer for more nodes, so drafts grow until their own time, or what is rejected,
    outweighs the wait. Up to `FAR_DEPTH`, and not where drafts are drawn at random (rejection):
    then the clock would settle which random numbers a text is made of.

    costs: of the passes that verify. name, key: under which the drafter's acceptance and its own
    costs are kept there, from call to call. usual: the length where nothing is chosen.
    """

    costs: PassCosts
    name: str
    key: str
    usual: int
    clock: Callable[[], float]
    _chains: dict[int, TokenTree] = field(default_factory=dict)  # this round's

    def __post_init__(self) -> None:
        self.acceptance = Acceptance(self.costs.acceptance.get(self.name, OWN))

    def best(self, rows: int, keys: int) -> int:
        """The length for a round of `rows` texts of `keys` tokens in all."""
        passes = self.costs.curve([rows * (1 + n) for n in range(FAR_DEPTH + 1)], keys)
        accepted, draft = self.acceptance.expected(FAR_DEPTH), self._draft_cost(keys)
        return max(
            range(1, FAR_DEPTH + 1),
            key=lambda n: (1.0 + accepted[n]) / (passes[n] + draft.seconds(n)),
        )

    def propose(
        self, draft: Propose, rows: Sequence[Row], limits: Sequence[int]
    ) -> list[TokenTree]:
        """What `draft` proposes with limits of this length, timed; `limits` bound it, too.

        A drafter that is new to this machine and length of text drafts twice before, to be timed.
        """
        self._chains = {}
        if max(limits) < 1 or any(row.sampler.draws for row in rows):
            return draft(rows, [min(limit, self.usual) for limit in limits])
        keys = sum(len(row.tokens) for row in rows)
        for _ in range(self._draft_cost(keys).count, KNOWN):  # thrown away
            self._timed(draft, keys, rows, [min(limit, REHEARSED) for limit in limits])
        most = self.best(len(rows), keys)
        trees = self._timed(draft, keys, rows, [min(limit, most) for limit in limits])
        self._chains = {row.index: tree for row, tree in zip(rows, trees, strict=True)}
        return trees

    def observe(self, rows: Sequence[Row], verdicts: Sequence[Verdict]) -> None:
        """Learn from what became of the last proposal, in place."""
        for row, verdict in zip(rows, verdicts, strict=True):
            mine = self._chains.get(row.index)
            if mine is not None:
                self.acceptance.note(*right(mine, verdict.tokens))
                self.costs.acceptance[self.name] = self.acceptance.prior

    def _timed(
        self, draft: Propose, keys: int, rows: Sequence[Row], limits: Sequence[int]
    ) -> list[TokenTree]:
        started = self.clock()
        trees = draft(rows, limits)
        deepest = max(max(tree.depths()) for tree in trees)
        if deepest:
            self._draft_cost(keys).note(deepest, 0, self.clock() - started)
        return trees

    def _draft_cost(self, keys: int) -> DraftCost:
        return self.costs.draft_cost(self.key, keys, 0.0)
