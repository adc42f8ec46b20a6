"""`specdec bench start`: starts in processes of their own, and what they take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from specdec.bench import start

from helpers import letters
from helpers.command import run


@pytest.mark.slow
def test_starts_are_measured(tmp_path):
    """A tiny model: more is resident than its file, and it is loaded before its first token."""
    folder = Path(letters.save(tmp_path / "letters"))
    done = run("bench", "start", "-m", str(folder), "--repeats", "1", "--json")
    (document,) = json.loads(done.output)["models"]
    first, second = document["starts"]
    assert document["file"] == start.file_bytes(folder) > 0
    for entry in (first, second):
        assert min(entry[name] for name in ("imports", "load", "token", "step")) > 0
        assert entry["resident"] <= entry["peak"]
    assert second["load"] < first["load"]  # nothing is compiled any more
