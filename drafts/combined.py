"""Combined: several drafters for one target, the cheap ones first."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.decoding.asking import Asking
from specdec.decoding.cached_model import CachedModel
from specdec.decoding.drafter import Drafter
from specdec.decoding.stats import Stats
from specdec.forward.plan import Needs
from specdec.forward.view_reads import ReadStats
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree
from specdec.sampling.verify import Verdict

ENOUGH = 4  # a draft this deep is a long match: it is not worth asking the next drafter


class Combined(Drafter):
    """Asks its drafters in order and grafts their trees onto each other.

    A later drafter is asked only for rows where the earlier ones found less than `ENOUGH`: a long
    n-gram match is right more often than a small model, and costs nothing. Deterministic drafters
    must come first, so that what a later one draws can be told apart from what was there already.
    """

    def __init__(self, parts: Sequence[Drafter]) -> None:
        self.parts = [Asking(part) for part in parts]
        self.name = "+".join(part.name for part in parts)
        self.needs = Needs.all_of([part.needs for part in parts])
        self._asked: list[set[int]] = [set() for _ in parts]

    def join(self, rows: Sequence[Row], verifier: CachedModel) -> None:
        for part in self.parts:
            part.join(rows, verifier)

    def leave(self, rows: Sequence[Row]) -> None:
        for part in self.parts:
            part.leave(rows)

    def propose(self, rows: Sequence[Row], limits: Sequence[int]) -> list[TokenTree]:
        trees = {row.index: TokenTree.root(row.tokens[-1]) for row in rows}
        want = list(zip(rows, limits, strict=True))
        for part, asked in zip(self.parts, self._asked, strict=True):
            asked.clear()
            if not want:
                continue
            asked.update(row.index for row, _ in want)
            drafts = part.propose([row for row, _ in want], [limit for _, limit in want])
            for (row, _), draft in zip(want, drafts, strict=True):
                trees[row.index].graft(draft)
            want = [
                (row, limit)
                for row, limit in want
                if max(trees[row.index].depths()) < min(ENOUGH, limit)
            ]
        return [trees[row.index] for row in rows]

    def inner_stats(self, row: Row) -> dict[str, Stats]:
        """Of those of its drafters that verify something themselves."""
        return {name: one for part in self.parts for name, one in part.inner_stats(row).items()}

    def reads(self, row: Row) -> dict[str, ReadStats]:
        """What the sparse views among its drafters read for a row, by name."""
        return {name: reads for part in self.parts for name, reads in part.reads(row).items()}

    def observe(
        self, rows: Sequence[Row], trees: Sequence[TokenTree], verdicts: Sequence[Verdict]
    ) -> None:
        for part, asked in zip(self.parts, self._asked, strict=True):
            told = [t for t in zip(rows, trees, verdicts, strict=True) if t[0].index in asked]
            if told:
                part.observe(*(list(column) for column in zip(*told, strict=True)))
