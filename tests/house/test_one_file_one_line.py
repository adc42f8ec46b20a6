"""A method is one file and one line: what docs/methods.md shows is all that there is of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.fast

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("specdec", "sparse", "drafts", "kernels", "bench")


def shown() -> dict[str, str]:
    """The files of the page's diff, and what it puts into them."""
    page = (ROOT / "docs/methods.md").read_text("utf-8")
    (block,) = re.findall(r"^```diff\n(.*?)^```", page, re.M | re.S)
    parts = [re.split(r"\n@@.*\n", part) for part in re.split(r"^\+\+\+ b/", block, flags=re.M)[1:]]
    return {name: "".join(x[1:] for x in hunk.splitlines(True)) for name, hunk in parts}


def tables(source: str) -> Any:
    """The registry that a source makes."""
    made: dict[str, Any] = {"__name__": "specdec.registry"}
    exec(compile(source, "registry.py", "exec"), made)
    return made


def test_the_file_is_whole_and_the_line_is_all_that_names_it() -> None:
    (file, text), (registry, line) = shown().items()
    assert (ROOT / file).read_text("utf-8") == text and registry == "specdec/registry.py"
    (kind,) = (x.name for x in ast.parse(text).body if isinstance(x, ast.ClassDef))
    module = f"specdec.{file.removesuffix('.py').replace('/', '.')}"
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            if path not in {ROOT / file, ROOT / registry}:
                source = path.read_text("utf-8")
                assert module not in source and not re.search(rf"\b{kind}\b", source), path
    assert f"{module}:{kind}" in line


def test_the_line_makes_a_view_and_a_drafter() -> None:
    """Without it the tables are the same but for the name."""
    source = (ROOT / "specdec/registry.py").read_text("utf-8")
    (line,) = list(shown().values())[1:]
    assert source.count(line) == 1
    name = re.match(r'\s*"([\w-]+)"', line)
    assert name is not None
    with_it, without = tables(source), tables(source.replace(line, ""))
    for table in ("VIEWS", "DRAFTERS"):
        assert set(with_it[table]) - set(without[table]) == {name[1]}
        assert set(without[table]) < set(with_it[table])
    assert name[1] in with_it["kv_methods"]() and name[1] in with_it["page_views"]()
