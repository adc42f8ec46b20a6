"""Beside: what methods keep beside keys and values, of a level's rows or of a sequence's text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Beside(Protocol):
    """Kept beside the rows of a level: indices, copies. It moves with the bytes it speaks of.

    One object holds all rows, under a key of its own in `Level.beside`, which two methods have in
    common only if what they keep is the same.
    """

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""

    def crop(self, row: int, length: int) -> None:
        """The row now has at most `length` committed tokens: forget what it knew of others.

        With 0 the row may be another text's: nothing is left of it, nor of what it has taught.
        """


class Notes(Beside, Protocol):
    """Kept beside the texts of a store: what was seen of their tokens, wherever those lie.

    Its rows are the store's sequences, its lengths count through all levels; see `KVStore.notes`.
    """

    def fork(self, sources: Sequence[int]) -> None:
        """From now on sequence s goes on where sequence `sources[s]` stands, apart from it."""
