"""docs/methods.md: its table is what the results say, and every system of the survey has a line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from specdec.bench.methods import files
from specdec.bench.methods.page import filled, parts
from specdec.registry import DRAFTERS, VIEWS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "methods.md").read_text("utf-8")


def test_the_tables_are_those_of_the_results() -> None:
    """As `scripts/methods-page` puts them there."""
    document = files.read(ROOT / "bench" / "results" / "methods")
    assert document is not None
    assert filled(PAGE, document) == PAGE
    assert all(part in PAGE for part in parts(document).values())
    with pytest.raises(KeyError):
        filled("<!-- made: nothing -->\n<!-- end -->", document)


def test_every_system_has_a_line_and_every_name_is_one() -> None:
    systems = PAGE[PAGE.index("## All 54 systems") :].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.+) \|$", systems, re.M)
    assert [int(number) for number, _, _ in rows] == list(range(1, 55))
    for _, _, where in rows:
        for name in re.findall(r"`([^`]+)`", where):
            known = name in VIEWS or name in DRAFTERS or (ROOT / name).is_file()
            assert known, name
