"""Extent: how much of a choice is read, and of the text since, so that the budget holds."""

from __future__ import annotations

from specdec.sparse.choose import Choice
from specdec.sparse.sequence_places import Place

Span = tuple[int, int, int]  # level, first token, end


def shares(pages: int, tail: int, budget: int, size: int) -> tuple[int, int]:
    """How many of `pages` chosen ones are read, and how many of the `tail` tokens since are not.

    The longer a choice stands, the more text there is since. Its pages make way, lowest score
    first, down to half of the budget; then the oldest of what came since does.
    """
    read = max(min(pages, max(0, budget - tail) // size), min(pages, budget // 2 // size))
    return read, max(0, tail - (budget - read * size))


def extent(choice: Choice, place: Place, budget: int, size: int) -> tuple[int, list[Span]]:
    """How many of the chosen pages are read, and which tokens committed since: see `shares`."""
    assert choice.pages is not None
    spans = [(at, choice.covered[at], place.lengths[at]) for at in range(place.readable)]
    tail = sum(end - start for _, start, end in spans)
    pages, excess = shares(choice.pages.shape[1], tail, budget, size)
    kept = []
    for at, start, end in spans:
        cut = min(excess, end - start)
        excess -= cut
        if end > start + cut:
            kept.append((at, start + cut, end))
    return pages, kept


def whole(place: Place, first: int = 0) -> list[Span]:
    """Everything committed from level `first` on."""
    levels = range(first, len(place.lengths))
    return [(at, 0, place.lengths[at]) for at in levels if place.lengths[at]]
