"""Tables of a document of `specdec bench offload`, as rows of words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specdec.decoding.stats import PLAIN

Rows = list[list[str]]


def passes_table(document: Mapping[str, Any]) -> Rows:
    """Milliseconds of passes by nodes, a column for each place."""
    cells = [cell for cell in document["cells"] if cell["passes"]]
    found = [["nodes of a pass", *map(_name, cells)]]
    for width in cells[0]["passes"] if cells else ():
        found.append([width, *(f"{1e3 * cell['passes'][width]:.0f} ms" for cell in cells)])
    return found


def texts_table(document: Mapping[str, Any]) -> list[Rows]:
    """For each prompt, tokens per second by drafter, a column for each place."""
    cells, found = document["cells"], []
    for text in dict.fromkeys(text for cell in cells for text in cell["texts"]):
        mine = [cell for cell in cells if text in cell["texts"]]
        names = dict.fromkeys(name for cell in mine for name in cell["texts"][text])
        rows = [[text, *map(_name, mine)]]
        rows += [[name, *(_figures(cell["texts"][text], name) for cell in mine)] for name in names]
        found.append(rows)
    return found


def _name(cell: Mapping[str, Any]) -> str:
    if cell["tier"] == "device":
        return "device"
    reached = f"{cell['link'] / 1e9:.1f} GB/s" if cell["link"] else ""
    return f"{cell['tier']} {reached}".strip()


def _figures(texts: Mapping[str, Any], drafter: str) -> str:
    one, plain = texts.get(drafter), texts.get(PLAIN)
    if one is None:
        return "-"
    text = f"{one['tokens_per_s']:.1f}"
    if drafter != PLAIN and plain is not None:
        text += f" ({one['tokens_per_s'] / plain['tokens_per_s']:.2f}x"
        text += f", {one['tokens_per_pass']:.2f})"
    return text + ("" if one["equal"] else " OTHER TEXT")
