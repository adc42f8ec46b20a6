"""Picture: an image, what its tokens should say, and a conversation about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Picture:
    """image: a PIL image; says: a word of the language for each of its tokens, in reading order.

    turns: questions and their answers; category: what is asked for. before: pictures that are shown
    first, in the same message where they have no turns of their own.
    """

    image: Any
    says: tuple[str, ...]
    turns: tuple[tuple[str, str], ...]
    category: str
    before: tuple[Picture, ...] = ()

    @property
    def shown(self) -> tuple[Picture, ...]:
        """All pictures of the conversation, in order."""
        return (*self.before, self)
