"""crossed: a parametrisation over combinations of several axes, in four sizes.

The rule of the suite for products: every *value* is tried in a fast one, every *pair* of values by
default, every *three* in the slow part. What fails does so for a value, or for two that do not get
on. With SPECDEC_TEST_WHOLE=1 the slow part has every combination.
"""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Iterable, Sequence
from itertools import combinations, product
from typing import Any

import pytest

from helpers.ids import short

Cell = tuple[Any, ...]
WHOLE = bool(os.environ.get("SPECDEC_TEST_WHOLE"))


def covering(
    axes: Sequence[Collection[Any]], together: int, start: Iterable[Cell] = ()
) -> set[Cell]:
    """A few cells of the product, beside `start`, in which any `together` axes meet with all their
    values. Greedy, and the same in every process."""
    groups = list(combinations(range(len(axes)), min(together, len(axes))))
    chosen = set(start)
    met = {(group, tuple(cell[i] for i in group)) for cell in chosen for group in groups}
    cells = list(product(*axes))
    random.Random(0).shuffle(cells)
    for least in range(len(groups), 0, -1):
        for cell in cells:
            new = {(group, tuple(cell[i] for i in group)) for group in groups} - met
            if len(new) >= least:
                chosen.add(cell)
                met |= new
    return chosen


def crossed(
    *, together: int = 2, fast: bool = False, indirect: Sequence[str] = (), **axes: Collection[Any]
) -> Any:
    """Parametrise a test over names of values, by axis; what `together` axes need is the default,
    and what one more needs is slow.

    together: 1 where pairs would be the product, or where axes do not meet in the code. fast: the
    few cells in which every value occurs bear the mark `fast`. indirect: axes that are fixtures.
    """
    values = list(axes.values())
    few = covering(values, 1)
    default = covering(values, together, few)
    wanted = set(product(*values)) if WHOLE else covering(values, together + 1, default)
    cells = []
    for cell in product(*values):
        if cell not in wanted:
            continue
        marks = [pytest.mark.slow] if cell not in default else []
        if fast and cell in few:
            marks.append(pytest.mark.fast)
        name = "-".join(x if isinstance(x, str) else short(x) for x in cell)
        cells.append(pytest.param(*cell, marks=marks, id=name))
    return pytest.mark.parametrize(list(axes), cells, indirect=list(indirect))
