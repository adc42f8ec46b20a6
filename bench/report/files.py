"""The output folder of a measurement: JSON, Markdown, pictures and the HTML report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specdec.bench.report.charts import draw
from specdec.bench.report.html import html
from specdec.bench.report.tables import markdown
from specdec.errors import InvalidArgument
from specdec.files import write_text

NAMES = "result.json", "result.md", "report.html"


def check_free(folder: Path) -> None:
    """Raise InvalidArgument where `write` would replace files that are no result of ours."""
    if folder.exists() and not folder.is_dir():
        raise InvalidArgument(f"--out {folder} is a file: give a folder")
    found = [name for name in NAMES if (folder / name).exists()]
    if not found:
        return
    try:
        read(folder)
    except InvalidArgument:
        raise InvalidArgument(
            f"--out {folder} holds {', '.join(found)}, and no result of `specdec bench run`: give "
            "another folder"
        ) from None


def write(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write result.json, result.md, *.png and report.html into `folder`; their paths."""
    check_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / name for name in NAMES[:2]]
    write_text(written[0], _json(document))
    write_text(written[1], markdown(document))
    pictures = draw(document, folder) if document["workloads"] else []
    report = folder / NAMES[2]
    write_text(report, html(document, pictures))
    return [*written, *pictures, report]


def read(file: Path) -> dict[str, Any]:
    """A result.json, or the folder that holds one. Raises InvalidArgument if it is none."""
    path = file / "result.json" if file.is_dir() else file
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path} cannot be read as a result of bench: {error}") from error
    if not isinstance(document, dict) or "workloads" not in document or "schema" not in document:
        raise InvalidArgument(f"{path} is no result of `specdec bench run`: it has no schema")
    return document


def _json(document: Mapping[str, Any]) -> str:
    """One line a workload and one for each other field, so that changes can be read."""
    compact = (",", ":")
    rows = ",\n".join(json.dumps(row, separators=compact) for row in document["workloads"])
    fields = {name: value for name, value in document.items() if name != "workloads"}
    lines = [f"{json.dumps(n)}: {json.dumps(v)}" for n, v in fields.items()]
    lines.append(f'"workloads": [\n{rows}\n]')
    return "{\n" + ",\n".join(lines) + "\n}\n"
