"""Asking: a drafter is asked about the rows that it can take, and nobody looks behind an end."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.decoding.cached_model import CachedModel
from specdec.decoding.drafter import Drafter, Reach
from specdec.decoding.stats import Stats
from specdec.errors import InvalidArgument
from specdec.forward.view_reads import ReadStats
from specdec.sampling.sequence import Row
from specdec.sampling.tree import TokenTree
from specdec.sampling.verify import LawUnknown, Verdict


class Asking(Drafter):
    """Stands between a drafter and whoever asks it, and is a drafter itself.

    A row that the drafter cannot take, or about which a logits processor cannot be asked, goes
    without its drafts: for good if its prompt is such, else for the round. `row.unasked` says so.
    Rows that the drafter's own model turns differently are asked about one after another, and what
    it drafts behind an end token is cut off. So drafts never fail a call that would have worked
    without them; a drafter's own mistakes still raise.
    """

    def __init__(self, drafter: Drafter) -> None:
        self.drafter, self.name = drafter, drafter.name
        self.needs, self.traits, self.reach = drafter.needs, drafter.traits, drafter.reach
        self.is_cold = drafter.is_cold
        self._read: dict[int, int] = {}  # leading tokens of each row that are known to have a row
        self._met: set[int] = set()
        self._asked: set[int] = set()  # in this round
        self._takes_all = self.reach == Reach()  # of those that it has met

    def takes(self, row: Row) -> bool:
        """Whether the drafter can be asked about the row as it stands."""
        return self._reason_against(row) is None

    def join(self, rows: Sequence[Row], verifier: CachedModel) -> None:
        mine = [row for row in rows if self._cannot_read(row) is None]
        if mine:
            self.drafter.join(mine, verifier)
        self._met.update(row.index for row in mine)

    def leave(self, rows: Sequence[Row]) -> None:
        mine = [row for row in rows if row.index in self._met]
        if mine:
            self.drafter.leave(mine)
        self._met.difference_update(row.index for row in mine)
        for row in rows:
            self._read.pop(row.index, None)

    def foretell(self, rows: Sequence[Row], limits: Sequence[int]) -> list[TokenTree]:
        """See `Drafter`. Raises InvalidArgument where the drafter cannot."""
        trees = self.drafter.foretell(rows, limits)
        if trees is None:
            raise InvalidArgument(
                f"drafter {self.name!r} drafts from what the target has read, so nothing is "
                "provisional: give drafter='cacheblend' and saved_documents"
            )
        self._asked = {row.index for row in rows}
        return [_ended(tree, row.ends) for row, tree in zip(rows, trees, strict=True)]

    def propose(self, rows: Sequence[Row], limits: Sequence[int]) -> list[TokenTree]:
        self._asked = set()
        if self._takes_all and all(row.index in self._met for row in rows):
            trees = self._proposed(rows, limits)
        else:
            trees = self._of_those_it_takes(rows, limits)
        return [trees.get(row.index) or TokenTree.root(row.tokens[-1]) for row in rows]

    def observe(
        self, rows: Sequence[Row], trees: Sequence[TokenTree], verdicts: Sequence[Verdict]
    ) -> None:
        if all(row.index in self._asked for row in rows):
            self.drafter.observe(rows, trees, verdicts)
            return
        told = [t for t in zip(rows, trees, verdicts, strict=True) if t[0].index in self._asked]
        if told:
            self.drafter.observe(*(list(column) for column in zip(*told, strict=True)))

    def inner_stats(self, row: Row) -> dict[str, Stats]:
        return self.drafter.inner_stats(row) if row.index in self._met else {}

    def reads(self, row: Row) -> dict[str, ReadStats]:
        return self.drafter.reads(row) if row.index in self._met else {}

    def explain(self) -> list[str]:
        return self.drafter.explain()

    def _of_those_it_takes(
        self, rows: Sequence[Row], limits: Sequence[int]
    ) -> dict[int, TokenTree]:
        """The drafter's trees, of rows that it can be asked about together."""
        trees: dict[int, TokenTree] = {}
        depths, mine = {}, []
        for row, limit in zip(rows, limits, strict=True):
            reason = self._reason_against(row)
            if reason is None:
                mine.append(row)
                depths[row.index] = self.reach.limit(row, limit)
            else:
                row.unasked[f"{self.name}: {reason}"] += 1
        for group in self.reach.rotation.together(mine, [row.span for row in mine]):
            trees |= self._proposed(group, [depths[row.index] for row in group])
        return trees

    def _proposed(self, rows: Sequence[Row], limits: Sequence[int]) -> dict[int, TokenTree]:
        """The drafter's trees, without rows for which a processor could not be asked."""
        while rows:
            try:
                trees = self.drafter.propose(rows, limits)
            except LawUnknown as unknown:
                left = [
                    (row, limit)
                    for row, limit in zip(rows, limits, strict=True)
                    if row.index != unknown.row.index
                ]
                if len(left) == len(rows):
                    raise
                unknown.row.unasked[f"{self.name}: {unknown}"] += 1
                rows, limits = [row for row, _ in left], [limit for _, limit in left]
                continue
            self._asked |= {row.index for row in rows}
            return {
                row.index: tree if len(tree) == 1 else _ended(tree, row.ends)
                for row, tree in zip(rows, trees, strict=True)
            }
        return {}

    def _reason_against(self, row: Row) -> str | None:
        """Why the drafter cannot be asked about a row; None if it can."""
        if row.index not in self._met:
            return "it could not take the prompt"
        return self._cannot_read(row)

    def _cannot_read(self, row: Row) -> str | None:
        """Why the drafter cannot read a row's text; None if it can."""
        reach = self.reach
        if len(row.tokens) > reach.max_tokens:
            return f"the text is longer than its {reach.max_tokens} positions"
        if reach.vocab_size is not None:
            start = self._read.get(row.index, 0)
            if max(row.tokens[start:], default=0) >= reach.vocab_size:
                return f"the text holds ids beyond its {reach.vocab_size}"
            self._read[row.index] = min(row.num_final, len(row.tokens))
        return None


def _ended(tree: TokenTree, ends: frozenset[int]) -> TokenTree:
    """The tree without what stands behind an end token."""
    if ends.isdisjoint(tree.tokens[1:]):
        return tree
    stay = [0]
    gone: set[int] = set()
    for node in range(1, len(tree)):
        parent = tree.parents[node]
        if parent in gone or (parent and tree.tokens[parent] in ends):
            gone.add(node)
        else:
            stay.append(node)
    return tree.only(stay) if gone else tree
