"""Categories: what each drafter comes to over all workloads of a kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from specdec.bench.report.measurement import mean_speedup, names
from specdec.decoding.stats import PLAIN

Rows = Sequence[Mapping[str, Any]]


def category_table(document: Mapping[str, Any]) -> list[list[str]]:
    """Header and rows: a drafter each, by category and temperature; empty where none has several
    workloads.

    A cell is the acceptance rate over all drafts of the category, in brackets tokens a pass, and
    the mean speed over plain decoding's; `texts` is how many are plain decoding's to the end.
    """
    kinds = _kinds(document)
    if max(map(len, kinds.values()), default=0) < 2:
        return []
    written = [row for rows in kinds.values() for row in rows]
    drafting = [n for n in names(document) if n != PLAIN and _cells(written, n)]
    head = ["acceptance (tokens a pass), times plain", *kinds, "texts"]
    made = [
        [name, *(_cell(rows, name) for rows in kinds.values()), _texts(written, name)]
        for name in drafting
    ]
    return [head, *made] if made else []


def _kinds(document: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Workloads that write, by category; a category at each temperature, where there are two."""
    rows = [row for row in document["workloads"] if not row["reads"]]
    many = len(Counter(row["temperature"] for row in rows)) > 1
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        kind = row["summary"] + (f", T={row['temperature']:g}" if many else "")
        found.setdefault(kind, []).append(row)
    return found


def _cells(rows: Rows, name: str) -> list[Mapping[str, Any]]:
    """What a drafter did in some workloads; without those that it could not do."""
    cells = [row["contestants"][name] for row in rows]
    return [cell for cell in cells if "stats" in cell]


def _cell(rows: Rows, name: str) -> str:
    stats = [cell["stats"] for cell in _cells(rows, name)]
    if not stats:
        return "-"
    drafts, accepted, passes, tokens = (
        sum(x[key] for x in stats)
        for key in ("num_draft_tokens", "num_accepted_draft_tokens", "num_spec_steps", "num_tokens")
    )
    rate = "no drafts" if not drafts else f"{accepted / drafts:.2f}"
    speed = mean_speedup(rows, name, PLAIN)
    times = "" if speed is None else f", {speed:.2f}x"
    return f"{rate} ({tokens / max(passes, 1):.2f}){times}"


def _texts(rows: Rows, name: str) -> str:
    equal = [
        row["contestants"][name]["tokens_equal_to_plain"] == row["new_tokens"]
        for row in rows
        if "stats" in row["contestants"][name]
    ]
    return f"{sum(equal)}/{len(equal)} equal"
