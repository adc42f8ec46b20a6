"""docs/methods.md: its table is what the results say, and every system of the survey has a line."""

from __future__ import annotations

import re
from pathlib import Path

from specdec.bench.methods import files
from specdec.bench.methods.tables import caption, comparison
from specdec.registry import DRAFTERS, VIEWS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "methods.md").read_text("utf-8")


def test_the_table_is_that_of_the_results() -> None:
    document = files.read(ROOT / "bench" / "results" / "methods")
    assert document is not None
    assert comparison(document) in PAGE and caption(document) in PAGE


def test_every_system_has_a_line_and_every_name_is_one() -> None:
    systems = PAGE[PAGE.index("## All 54 systems") :].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.+) \|$", systems, re.M)
    assert [int(number) for number, _, _ in rows] == list(range(1, 55))
    for _, _, where in rows:
        for name in re.findall(r"`([^`]+)`", where):
            known = name in VIEWS or name in DRAFTERS or (ROOT / name).is_file()
            assert known, name
