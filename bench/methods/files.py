"""Files: the document of a study, its tables and its plot, in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specdec.bench.methods.pareto import draw
from specdec.bench.methods.tables import markdown
from specdec.errors import InvalidArgument
from specdec.files import write_text

NAMES = "methods.json", "methods.md", "methods.png"


def read(folder: Path) -> dict[str, Any] | None:
    """The document of a folder; None if it has none. Raises InvalidArgument for another file."""
    file = folder / NAMES[0]
    if not file.exists():
        return None
    try:
        document = json.loads(file.read_text("utf-8"))
        assert isinstance(document["cells"], dict)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise InvalidArgument(f"{file} is no result of `specdec bench methods`") from error
    return dict(document)


def write(document: Mapping[str, Any], folder: Path) -> None:
    """The document alone, one line a cell."""
    cells = ",\n".join(f"{json.dumps(n)}: {json.dumps(c)}" for n, c in document["cells"].items())
    fields = [f"{json.dumps(n)}: {json.dumps(v)}" for n, v in document.items() if n != "cells"]
    text = ",\n".join([*fields, f'"cells": {{\n{cells}\n}}'])
    write_text(folder / NAMES[0], f"{{\n{text}\n}}\n")


def report(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Tables and plot of a document beside it; their paths."""
    table, plot = (folder / name for name in NAMES[1:])
    write_text(table, markdown(document))
    return [folder / NAMES[0], table, *draw(document, plot)]
