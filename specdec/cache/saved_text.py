"""SavedText: keys and values of a text that need not be read again, wherever they are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from specdec.cache.store import KVStore


class SavedTexts(Protocol):
    """Where saved texts may be found: one of them is such a place, too."""

    def nearest(self, tokens: Sequence[int]) -> SavedText | None:
        """The text to begin a prompt with, which `Prompt.keys` gives; None to read all of it."""


class SavedText(SavedTexts, Protocol):
    """What prompts begin with and need not be read again, such as a `SavedPrompt`."""

    tokens: list[int]

    def common(self, tokens: Sequence[int]) -> int:
        """How many of the saved tokens `tokens` starts with, as `Prompt.keys` gives them."""

    def load(self, target: Any, store: KVStore, sequence: int, count: int) -> None:
        """Commit the first `count` tokens' keys and values to an empty row of a target's store."""


def num_common(saved: Sequence[int], tokens: Sequence[int]) -> int:
    """How many of the saved tokens `tokens` starts with."""
    pairs = zip(saved, tokens, strict=False)
    differs = (i for i, (mine, other) in enumerate(pairs) if mine != other)
    return next(differs, min(len(saved), len(tokens)))
