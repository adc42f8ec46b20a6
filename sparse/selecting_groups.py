"""selecting_groups: which tokens of a sequence's groups a layer will read."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from specdec.forward.layout import Segments
from specdec.sparse.group_index import GroupIndices
from specdec.sparse.groupings.base import Asked, Grouping, Lines, Stretch
from specdec.sparse.text import Text


def grouped(grouping: Grouping, text: Text, x: Segments, q: Tensor) -> Asked:
    """All that is in groups by now, for a layer's own queries `q[H, n, D]`; what has closed since
    the last time is taken up beside each level. What is wanted of it is still 0.

    text: all committed tokens of the levels that are selected from.
    """
    covered: list[int] = []
    held: list[Lines] = []
    open_at = offset = 0
    for level, row, length in zip(text.store.levels, x.rows, text.covered, strict=False):
        k, v, done = level.k[text.layer], level.v[text.layer], 0
        if length and k is not None and v is not None:
            index = GroupIndices.of(level, grouping).index(row, text.layer)
            done = index.update(grouping, Stretch(text, k[row], v[row], length, offset))
            open_at = offset + done
            held += [index.lines] if done else []
        covered.append(done)
        offset += length
    return Asked(replace(text, covered=tuple(covered)), open_at, q, held, 0, 0, 0)
