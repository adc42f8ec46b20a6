"""Layout: where the sequences of a pass stand in the store, read once for all of its layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from specdec.forward_pass import ForwardPass
from specdec.stats import Reads


@dataclass
class Place:
    """One sequence of a pass, level by level.

    rows, lengths: its row in each level and the tokens committed there. readable: leading levels
    that a view chooses from; the level that a draft writes is not among them and is always read.
    round: how often its committed text has grown. reads: how much each pass read.
    """

    sequence: int
    round: int
    rows: list[int]
    lengths: list[int]
    readable: int
    reads: Reads

    @cached_property
    def total(self) -> int:
        """Committed tokens over all levels."""
        return sum(self.lengths)

    def note(self, tokens: int) -> None:
        """A layer of this pass reads only so many of the committed tokens."""
        self.reads.tokens[-1] = tokens


class Layout:
    """The places of one pass. Lengths only change between passes, so layers need not ask again."""

    def __init__(self, pass_: ForwardPass) -> None:
        store = pass_.store
        readable = len(store.levels) - (1 if store.num_shared else 0)
        lengths = [level.length.tolist() for level in store.levels]
        maps = [rows.tolist() for rows in store.row_maps]
        self.places = []
        for sequence, grown in zip(pass_.sequences, pass_.rounds, strict=True):
            rows = [rows[sequence] for rows in maps]
            held = [level[row] for level, row in zip(lengths, rows, strict=True)]
            reads = pass_.state.setdefault(("reads", sequence), Reads())
            reads.tokens.append(sum(held))
            reads.context.append(sum(held))
            self.places.append(Place(sequence, grown, rows, held, readable, reads))

    @classmethod
    def of(cls, pass_: ForwardPass) -> Layout:
        """The layout of a pass, made at its first layer that asks."""
        if "layout" not in pass_.plans:
            pass_.plans["layout"] = cls(pass_)
        known: Layout = pass_.plans["layout"]
        return known
