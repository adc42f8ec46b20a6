"""CodedView: a pass that reads every token, out of a copy that a codec keeps in less."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from specdec.forward.forward_pass import ForwardPass
from specdec.forward.layout import Segments
from specdec.forward.pass_ahead import PassAhead
from specdec.forward.plan import WHOLE, LayerPlan, Needs, RowPlan
from specdec.forward.prompt_queries import PromptQueries
from specdec.sparse.codecs.codec import Codec
from specdec.sparse.codecs.coded_copy import CodedCopy, CodedRow, CopyKind
from specdec.sparse.codecs.coded_read import CodedRead, CodedReads
from specdec.sparse.policy import PROMPT_QUERIES


@dataclass(frozen=True, eq=False)
class CodedView:
    """All committed tokens as `codec` gives them back, but for the `recent` last ones, the `sink`
    first ones and an open block.

    groups: by layer, the layers that are encoded with it; those without a group read everything.
    prompt_only: what comes after the text that is there first is read as it is.
    Staged tokens, and those that a drafter's own level holds, are read as they are, and layers with
    a sliding window read their window as it is. The copy stands beside the store, is made of what
    the target committed, and is decoded as often as it is read.
    """

    name: str
    codec: Codec
    groups: Mapping[int, tuple[int, ...]]
    recent: int
    sink: int = 0
    asks_queries: bool = False
    prompt_only: bool = False
    lossless: bool = field(default=False, init=False)

    @property
    def reads(self) -> None:
        return None

    @property
    def needs(self) -> Needs:
        return Needs(PROMPT_QUERIES if self.asks_queries else 0)

    def prepare(self, ahead: PassAhead) -> Hashable | None:
        """None: the host says how much of each copy is read."""
        return None

    def plan(self, pass_: ForwardPass, layer: int, window: int | None) -> LayerPlan:
        """The copies of the committed levels, brought up to date, and what came since."""
        if window is not None or layer not in self.groups:
            return WHOLE
        shared: dict[int, CodedRead] = {}
        rows, reads = [], []
        for x in pass_.segments(layer):
            mine = [
                None
                if copy is None
                else shared.setdefault(id(copy), self.read(pass_, x, at, copy, copy.tokens))
                for at, copy in enumerate(self.copies(pass_, layer, x))
            ]
            reads.append(mine)
            rows.append(row_of(x, mine))
            note(x, layer, mine)
        return LayerPlan(tuple(rows), extras_of(reads))

    def copies(self, pass_: ForwardPass, layer: int, x: Segments) -> list[CodedRow | None]:
        """A sequence's copy in each readable level that has keys, brought up to date."""
        group, found = self.groups[layer], []
        known, queries = None, self._queries(pass_, group, x)
        device = pass_.positions.device
        kind = CopyKind(self.codec, group, self.recent, self.asks_queries, self.prompt_only)
        for at in range(x.readable):
            level, start = pass_.store.levels[at], sum(x.lengths[:at])
            copy = None
            if level.k[group[0]] is not None:
                copy = CodedCopy.of(level, kind).row(x.rows[at])
                if not (self.prompt_only and (known is not None or copy.learned is not None)):
                    copy.update(level, x.rows[at], self.recent, start, queries, known, device)
                known = known if copy.learned is None else copy.learned
            found.append(copy)
        return found

    def read(self, pass_: ForwardPass, x: Segments, at: int, copy: CodedRow, end: int) -> CodedRead:
        """The first `end` tokens of a sequence's level `at`."""
        start = sum(x.lengths[:at])
        return CodedRead(copy, pass_.store.levels[at], x.rows[at], start, end, self.sink)

    def _queries(self, pass_: ForwardPass, group: tuple[int, ...], x: Segments) -> Tensor | None:
        kept = PromptQueries.of(pass_.store).window[x.sequence]
        if not self.asks_queries or not all(layer in kept for layer in group):
            return None  # a prompt that was saved has none
        return torch.cat([kept[layer].q for layer in group])


def row_of(x: Segments, reads: list[CodedRead | None]) -> RowPlan:
    """What a sequence reads as it is: all that copies do not give."""
    since = [0 if read is None else read.end for read in reads]
    return RowPlan((*since, *[0] * (len(x.lengths) - x.readable)))


def extras_of(reads: list[list[CodedRead | None]]) -> list[CodedReads]:
    """The reads of all sequences, level by level."""
    by_level = zip(*reads, strict=True)
    return [CodedReads(level) for level in by_level if any(r and r.end for r in level)]


def note(x: Segments, layer: int, reads: list[CodedRead | None]) -> None:
    """Count what a layer reads of a sequence, in the bytes of the copies."""
    size: float = x.total * x.token_bytes
    for read in reads:
        if read is None or not read.end:
            continue
        exact = read.num_exact
        better = x.token_bytes if read.high is None else read.high.token_bytes
        size += exact * better - read.end * x.token_bytes
        size += (read.end - exact) * read.copy.token_bytes
    x.note(layer, x.total, round(size))
