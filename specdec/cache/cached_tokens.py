"""CachedTokens: what a store holds of one row, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from specdec.sampling.prompt import Prompt


@dataclass
class CachedTokens:
    """Committed tokens, and the tree of tokens staged behind them.

    tokens: as `Prompt.keys` tells them apart. content: what the prompt holds besides ids.
    num_final: leading committed tokens that are part of the row for good.
    length: of the text when it was last read; 0 before that.
    base: leading committed tokens that another store holds for this one; -1 before it was asked.
    slots, parents: token and parent slot of each staged slot; -1 for padding and for no parent.
    """

    tokens: list[int] = field(default_factory=list)
    num_final: int = 0
    length: int = 0
    base: int = -1
    slots: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    content: Prompt | None = None

    @property
    def ids(self) -> list[int]:
        """The ids of what is committed; where embeddings are read, those that hold the place."""
        known = [] if self.content is None else self.content.ids[: len(self.tokens)]
        return known + self.tokens[len(known) :]

    def hold(self, tokens: Sequence[int], num_final: int) -> None:
        """Take up tokens that were read and committed behind the others."""
        self.tokens.extend(tokens)
        self.num_final = min(num_final, len(self.tokens))

    def pad(self, width: int) -> None:
        """Fill up with slots that nothing sees, so that the rows of a batch stay side by side."""
        missing = width - len(self.slots)
        self.slots.extend([-1] * missing)
        self.parents.extend([-1] * missing)

    def unstage(self) -> None:
        """Forget what is staged."""
        self.slots, self.parents = [], []

    def stage(self, slots: list[int], parents: list[int]) -> None:
        """Take up what a pass has staged: all slots, those of passes before it included."""
        self.slots, self.parents = slots, parents

    def path(self, text: Sequence[int]) -> list[int]:
        """The staged slots that `text` goes through."""
        path: list[int] = []
        for token in text:
            above = path[-1] if path else -1
            slot = self._find(above, token)
            if slot is None:
                break
            path.append(slot)
        return path

    def commit(self, path: Sequence[int]) -> None:
        """Take up the tokens of staged slots as committed."""
        self.tokens.extend(self.slots[slot] for slot in path)

    def _find(self, above: int, token: int) -> int | None:
        """The staged slot below `above` that holds `token`."""
        for slot in range(above + 1, len(self.slots)):
            if self.slots[slot] == token and self.parents[slot] == above:
                return slot
        return None


def depths(parents: Sequence[int]) -> list[int]:
    """Distance of each staged slot from the committed text."""
    found: list[int] = []
    for parent in parents:
        found.append(0 if parent < 0 else found[parent] + 1)
    return found
