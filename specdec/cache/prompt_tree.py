"""Branch: a stretch of text with which several prompts go on alike, found as a tree."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

LEAST = 64  # tokens of reading that a branch has to save; see `branches`


@dataclass(frozen=True)
class Branch:
    """Tokens `start .. end` of the texts in the slots `members`, the same in all of them.

    depth: how many branches of the same texts stand before it.
    """

    members: tuple[int, ...]
    start: int
    end: int
    depth: int

    @property
    def saved(self) -> int:
        """Tokens that need not be read where one text of them is."""
        return (len(self.members) - 1) * (self.end - self.start)


def branches(
    texts: Mapping[int, Sequence[int]],
    kinds: Mapping[int, Hashable],
    least: int = LEAST,
    whole: Callable[[int, int], int] = lambda slot, end: end,
) -> list[Branch]:
    """The branches of the tree of `texts`, by slot; those before others first.

    A tree for the texts of each of `kinds`. One that saves fewer than `least` tokens is left to its
    members, and may be part of a longer one of fewer members; texts that are the same to their end
    share that anyway. whole(slot, end): the last place up
    to `end` at which that text may be cut.
    """
    groups: dict[Hashable, list[int]] = {}
    for slot in texts:
        groups.setdefault(kinds[slot], []).append(slot)
    found: list[Branch] = []
    # members, where their next branch begins, up to where they are known to be alike, depth
    waiting = [(tuple(group), 0, 0, 0) for group in groups.values()]
    while waiting:
        members, start, alike, depth = waiting.pop()
        if len(members) < 2:
            continue
        alike = _common([texts[slot] for slot in members], alike)
        branch = Branch(members, start, min(whole(slot, alike) for slot in members), depth)
        is_whole = all(len(texts[slot]) == alike for slot in members)
        if branch.end > start and (branch.saved >= least or is_whole):
            found.append(branch)
            start, depth = branch.end, depth + 1
        below: dict[int, list[int]] = {}
        for slot in members:
            if len(texts[slot]) > alike:
                below.setdefault(texts[slot][alike], []).append(slot)
        waiting += [(tuple(group), start, alike, depth) for group in below.values()]
    return sorted(found, key=lambda branch: (branch.depth, branch.members))


def _common(texts: Sequence[Sequence[int]], start: int) -> int:
    """How many first tokens all texts have in common; the first `start` they do."""
    low, high = min(map(list, texts)), max(map(list, texts))  # all others stand between these
    end = min(len(low), len(high))
    return next((i for i in range(start, end) if low[i] != high[i]), end)
