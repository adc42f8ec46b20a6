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


def write(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write result.json, result.md, *.png and report.html into `folder`; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "result.json", folder / "result.md"]
    written[0].write_text(_json(document), "utf-8")
    written[1].write_text(markdown(document), "utf-8")
    pictures = draw(document, folder) if document["workloads"] else []
    report = folder / "report.html"
    report.write_text(html(document, pictures), "utf-8")
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
