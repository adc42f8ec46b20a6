"""Products of axes: what is tried in which part of the suite."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from helpers.matrix import covering, crossed

pytestmark = pytest.mark.fast

AXES = [range(9), "abcd", "xyz", (True, False)]


def met(cells, together):
    return {
        (axes, tuple(cell[i] for i in axes))
        for cell in cells
        for axes in combinations(range(len(AXES)), together)
    }


@pytest.mark.parametrize("together", [1, 2, 3, 4])
def test_any_so_many_axes_meet_with_all_their_values(together):
    cells = covering(AXES, together)
    assert met(cells, together) == met(product(*AXES), together)
    most = {1: 12, 2: 48, 3: 130, 4: 216}  # 9, 36, 108 and 216 at the least
    assert len(cells) <= most[together] and cells == covering(AXES, together)


def test_parts_of_a_product():
    """Each part holds the one before; what nobody needs is slow."""
    mark = crossed(fast=True, number=range(9), letter="abcd", sign="xyz").mark
    parts = {"fast": set(), "default": set(), "all": set()}
    for cell in mark.args[1]:
        marks = {mark.name for mark in cell.marks}
        parts["all"].add(cell.values)
        assert marks < {"fast", "slow"}, "not both"
        if "slow" not in marks:
            parts["default"].add(cell.values)
        if "fast" in marks:
            parts["fast"].add(cell.values)
    assert len(parts["fast"]) <= 12 and parts["fast"] < parts["default"] < parts["all"]
    assert parts["all"] == set(product(range(9), "abcd", "xyz")) and len(parts["default"]) <= 48


def test_the_slow_part_has_one_axis_more_together():
    mark = crossed(together=1, number=range(9), letter="abcd", sign="xyz").mark
    cells = {cell.values for cell in mark.args[1]}
    pairs = {(i, j, cell[i], cell[j]) for cell in cells for i, j in ((0, 1), (0, 2), (1, 2))}
    assert len(pairs) == 9 * 4 + 9 * 3 + 4 * 3 and len(cells) < 9 * 4 * 3
