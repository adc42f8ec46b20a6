"""Standing choices: those that earlier passes have made and the next one would keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from specdec.forward.pass_ahead import PassAhead
from specdec.sparse.choose import Choice

if TYPE_CHECKING:
    from specdec.sparse.view import SparseView


def standing(
    view: SparseView, ahead: PassAhead, anchors: Sequence[int]
) -> dict[tuple[int, int], Choice] | None:
    """The choices, by (sequence, anchor), of all texts that are longer than the budget.

    None where the next pass has to choose for one of them.
    """
    found: dict[tuple[int, int], Choice] = {}
    level, rows = ahead.store.levels[0], ahead.store.row_maps[0]
    for sequence, grown in zip(ahead.sequences, ahead.rounds, strict=True):
        if ahead.store.length(sequence) <= view.budget:
            continue
        lengths = [int(level.length[rows[sequence]])]
        for anchor in anchors:
            known: Choice | None = ahead.state.get((sequence, anchor))
            if known is None or known.pages is None:
                return None
            if view.is_due(known, ahead.state, sequence, grown, lengths):
                return None
            found[sequence, anchor] = known
    return found
