"""The HTML report: tables, pictures and raw settings of a measurement in one file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from specdec.bench.report.categories import category_table
from specdec.bench.report.tables import acceptance_table, caption, notes, table

_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px }
td, th { border: 1px solid #ccc; padding: .25rem .5rem; text-align: right }
td:first-child, th:first-child { text-align: left }
th { background: #8882 } tr:last-child { border-top: 2px solid #888 }
img { max-width: 48%; margin: .5%; background: #fff }
pre { background: #8882; padding: .5rem; overflow: auto }
@media (max-width: 50rem) { img { max-width: 100% } table { display: block; overflow-x: auto } }
"""


def html(document: Mapping[str, Any], pictures: Sequence[Path]) -> str:
    """A page that needs nothing beside itself."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>specdec bench: {escape(str(document['suite']))}</title><style>{_STYLE}</style>",
        f"<h1>specdec bench: {escape(str(document['suite']))}</h1>",
        f"<p>{escape(caption(document))}</p>",
    ]
    if document["workloads"]:
        parts += [_table(table(document)), *(f"<p>{escape(line)}</p>" for line in notes(document))]
        parts += [_picture(path) for path in pictures]
        more = [x for x in (acceptance_table(document), category_table(document)) if len(x) > 1]
        parts += ["<h2>Acceptance</h2>", *map(_table, more)] if more else []
        parts += _choices(document)
    facts = {"machine": document["machine"], "settings": document["settings"]}
    parts.append(f"<h2>Where and how</h2><pre>{escape(json.dumps(facts, indent=1))}</pre></html>")
    return "\n".join(parts)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["<table><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    for row in body:
        lines.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f"<img alt='{escape(path.stem)}' src='data:image/png;base64,{data}'>"


def _choices(document: Mapping[str, Any]) -> list[str]:
    """What `auto` chose and why, folded away."""
    parts = []
    for row in document["workloads"]:
        lines = row["contestants"].get("auto", {}).get("explanation")
        if lines:
            text = escape("\n".join(lines))
            parts.append(
                f"<details><summary>auto on {escape(row['workload'])}</summary><pre>{text}</pre>"
                "</details>"
            )
    return ["<h2>What auto chose, and why</h2>", *parts] if parts else []
