"""Standing selections: those that earlier passes have made and the next one would keep."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.forward.pass_ahead import PassAhead
from specdec.forward.plan import Selection
from specdec.sparse.policy import Policy


def standing(
    policy: Policy, ahead: PassAhead, anchors: Sequence[int]
) -> dict[tuple[int, int], Selection] | None:
    """The selections, by (sequence, anchor), of all texts that are longer than the budget.

    None where the next pass has to select for one of them.
    """
    found: dict[tuple[int, int], Selection] = {}
    level, rows = ahead.store.levels[0], ahead.store.row_maps[0]
    for sequence, grown in zip(ahead.sequences, ahead.rounds, strict=True):
        if ahead.store.length(sequence) <= policy.budget:
            continue
        lengths, mine = [int(level.length[rows[sequence]])], ahead.state.of(sequence)
        for anchor in anchors:
            known = mine.selections.get(anchor)
            if known is None or known.pages is None:
                return None
            if policy.is_due(known, mine, grown, lengths):
                return None
            found[sequence, anchor] = known
    return found
