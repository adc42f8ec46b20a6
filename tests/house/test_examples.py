"""Every example runs, and says what it promises to say."""

from __future__ import annotations

import json
import runpy
import sys
from typing import Any

import pytest

from helpers import pages

EXAMPLES = pages.ROOT / "examples"
SAYS = {
    "generate.py": "the same text: True",
    "own_drafter.py": "drafter sentences",
    "compare_drafters.py": "ngram",
    "long_document.py": "Is the sky green?",
    "inside_transformers.py": "the same text: True",
}


def test_no_example_is_left_out() -> None:
    assert set(SAYS) == {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(
    name: str, as_demo: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    told = capsys.readouterr().out
    assert SAYS[name] in told and "same text: False" not in told


def test_the_notebook_runs(as_demo: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Its code, cell by cell, as Jupyter would."""
    import matplotlib

    matplotlib.use("Agg")
    names: dict[str, Any] = {}
    cells = json.loads((EXAMPLES / "acceptance.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for number, cell in enumerate(code):
        exec(compile(cell, f"cell {number}", "exec"), names)
    assert "the same text: True" in capsys.readouterr().out
    shown = [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]
    assert sum(map(bool, shown)) >= 4  # executed, as it is kept
