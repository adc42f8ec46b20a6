"""Layout: where the sequences of a pass stand in the store, read once for all of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from specdec.cache.level import Level
from specdec.cache.store import KVStore
from specdec.forward.view_reads import LayerRead, ReadStats
from specdec.forward.view_state import ViewState


@dataclass
class Segments:
    """One sequence of a pass, level by level.

    rows, lengths: its row in each level and the tokens committed there. readable: leading levels
    that a view selects from; the level that a draft writes is not among them and is always read.
    round: how often its committed text has grown. reads: how much each pass read; token_bytes: of
    one token's keys and values in a layer.
    """

    sequence: int
    round: int
    rows: list[int]
    lengths: list[int]
    readable: int
    reads: ReadStats
    token_bytes: int = 0

    @cached_property
    def total(self) -> int:
        """Committed tokens over all levels."""
        return sum(self.lengths)

    def note(self, layer: int, tokens: float, size: int | None = None) -> None:
        """A layer of this pass, which may leave something out, reads so many of the committed
        tokens, in `size` bytes where they are not as the model has them."""
        read = round(tokens * self.token_bytes) if size is None else size
        self.reads.note(layer, LayerRead(tokens, read, self.total * self.token_bytes))

    def note_all(self, layer: int) -> None:
        """A layer of this pass reads everything."""
        size = self.total * self.token_bytes
        self.reads.note(layer, LayerRead(self.total, size, size, is_part=False))


def segments_of(
    store: KVStore, sequences: Sequence[int], rounds: Sequence[int], state: ViewState, layer: int
) -> list[Segments]:
    """The segments of each sequence, by the bytes of `layer`; begins a pass in its counts."""
    readable = len(store.levels) - (1 if store.num_shared else 0)
    lengths = [level.length.tolist() for level in store.levels]
    maps = [rows.tolist() for rows in store.row_maps]
    size = next((token_bytes(x, layer) for x in store.levels if x.k[layer] is not None), 0)
    found = []
    for sequence, grown in zip(sequences, rounds, strict=True):
        rows = [rows[sequence] for rows in maps]
        held = [level[row] for level, row in zip(lengths, rows, strict=True)]
        reads = state.reads_of(sequence)
        reads.begin(sum(held))
        found.append(Segments(sequence, grown, rows, held, readable, reads, size))
    return found


def token_bytes(level: Level, layer: int) -> int:
    """Bytes of a token's keys and values in one layer of a level."""
    buffers = (level.k[layer], level.v[layer])
    return sum(x.shape[1] * x.shape[3] * x.element_size() for x in buffers if x is not None)
