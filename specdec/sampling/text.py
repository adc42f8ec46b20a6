"""Text: what the law has to know of a row."""

from __future__ import annotations

from collections import Counter
from typing import Protocol


class Text(Protocol):
    """A `Row`, as samplers and rules see it: they change nothing in it."""

    @property
    def index(self) -> int: ...

    @property
    def tokens(self) -> list[int]: ...

    @property
    def num_final(self) -> int: ...

    @property
    def round(self) -> int: ...

    @property
    def nesting(self) -> int: ...

    @property
    def ends(self) -> frozenset[int]: ...

    @property
    def unasked(self) -> Counter[str]: ...
