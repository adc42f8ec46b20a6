"""Budget: how much of a selection is read, and of the text since, so that the budget holds."""

from __future__ import annotations

from specdec.forward.layout import Segments
from specdec.forward.plan import RowPlan, Selection


def split(pages: int, tail: int, budget: int, size: int) -> tuple[int, int]:
    """How many of `pages` selected ones are read, and how many of the `tail` tokens since are not.

    The longer a selection stands, the more text there is since. Its pages make way, lowest score
    first, down to half of the budget; then the oldest of what came since does.
    """
    read = max(min(pages, max(0, budget - tail) // size), min(pages, budget // 2 // size))
    return read, max(0, tail - (budget - read * size))


def row_plan(selection: Selection, segments: Segments, budget: int) -> RowPlan:
    """What a sequence reads of a selection, and of what was committed since: see `split`.

    budget: the view's, where the selection has none of its own.
    """
    assert selection.pages is not None
    size, since = selection.page_size, list(selection.covered)
    tail = sum(segments.lengths[: segments.readable]) - sum(since)
    if selection.is_bounded:
        own = budget if selection.budget is None else selection.budget
        count, excess = split(selection.num_pages, tail, own, size)
    else:
        count, excess = selection.num_pages, 0
    for at in range(segments.readable):
        cut = min(excess, segments.lengths[at] - since[at])
        since[at], excess = since[at] + cut, excess - cut
    later = len(segments.lengths) - segments.readable  # a draft's own level is read whole
    return RowPlan((*since, *[0] * later), selection, count)
