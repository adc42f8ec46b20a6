"""Reports: a measurement as a Markdown table, and as rows for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from specdec.bench.report.categories import category_table
from specdec.bench.report.measurement import (
    average,
    base,
    contract,
    counted,
    names,
    rate,
    speedup,
)
from specdec.decoding.stats import PLAIN

SAMPLED = "-"  # in place of a count of equal tokens, where a peer draws other random numbers


def markdown(document: Mapping[str, Any]) -> str:
    """The table, with what was measured where above it, and averages and the contract below."""
    if not document["workloads"]:
        return "\n".join(["Nothing was measured.", *notes(document)]) + "\n"
    lines = [caption(document), "", *_lines(table(document)), "", *notes(document)]
    for more in (acceptance_table(document), category_table(document)):
        if len(more) > 1:
            lines += ["", *_lines(more)]
    return "\n".join(lines) + "\n"


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *others = rows
    return [
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
        *(f"| {' | '.join(row)} |" for row in others),
    ]


def table(document: Mapping[str, Any]) -> list[list[str]]:
    """Header and rows: everyone's tokens/s, multiples of the base, and equal tokens."""
    everyone, over = names(document), base(document)
    rows = [["workload", "prompt + new", *everyone]]
    for row in document["workloads"]:
        flag = " (ends in a loop)" if row["loops"] else ""
        if row.get("ends_after") is not None:
            flag += f" (end token after {row['ends_after']})"
        size = f"{row['prompt_tokens']} + {row['new_tokens']}"
        rows.append([row["workload"] + flag, size, *(_cell(row, n, over) for n in everyone)])
    if len(counted(document)) > 1:
        means = [average(document, name, over) for name in everyone]
        rows.append(["geometric mean", "", *("" if m is None else f"{m:.2f}x" for m in means)])
    return rows


def acceptance_table(document: Mapping[str, Any]) -> list[list[str]]:
    """Header and rows: acceptance rate of each drafter, and tokens per target pass in brackets."""
    drafting = [n for n in names(document) if n != PLAIN and _stats(document, n) is not None]
    rows = [["acceptance (tokens a pass)", *drafting]]
    for row in document["workloads"]:
        if row["reads"]:
            continue
        cells = []
        for name in drafting:
            stats = row["contestants"][name].get("stats")
            cells.append(
                "-" if stats is None else f"{stats['draft_acceptance_rate']:.2f} "
                f"({stats['mean_acceptance_length']:.2f})"
            )  # fmt: skip
        rows.append([row["workload"], *cells])
    return rows if drafting else []


def caption(document: Mapping[str, Any]) -> str:
    """Model, machine, versions and settings in one line."""
    machine, settings = document["machine"], document["settings"]
    where = machine["gpu"] or f"{machine['cpu']}, {_counted(machine['cores'], 'thread')}"
    options = "".join(f", {name}={value}" for name, value in settings["options"].items())
    cut = "" if document["finished"] else "; INTERRUPTED: not all runs were made"
    return (
        f"{document['model']}, {document['dtype']}, {where}, torch {machine['torch']}, "
        f"transformers {machine['transformers']}, commit {machine['commit']}; suite "
        f"{document['suite']}{options}; median of {settings['repeats']}{cut}."
    )


def notes(document: Mapping[str, Any]) -> list[str]:
    """How to read the table, and how far the contract holds."""
    if not document["workloads"]:
        return [f"- left out: {name}: {why}" for name, why in document["skipped"].items()]
    text = (
        f"Tokens/s of decoding; in brackets: times {base(document)}, and tokens equal to plain "
        "decoding's before the first difference."
    )
    loops = sum(row["loops"] for row in document["workloads"])
    if loops:
        text += f" Left out of averages: {loops} of the texts, which end in a loop."
    ended = sum(row.get("ends_after") is not None for row in document["workloads"])
    if ended:
        text += (
            f" Nobody stops at end tokens, so that all texts are equally long: {ended} of them go "
            "on behind the end of the answer."
        )
    lines = [text]
    for line in contract(document):
        lines.append(line if line.startswith("auto is") else f"- {line}")
    errors = {
        f"- {name}: {cell['error']}"
        for row in document["workloads"]
        for name, cell in row["contestants"].items()
        if "error" in cell
    }
    skipped = [f"- left out: {name}: {why}" for name, why in document["skipped"].items()]
    return [*lines, *sorted(errors), *skipped]


def _cell(row: Mapping[str, Any], name: str, over: str) -> str:
    cell, speed = row["contestants"][name], rate(row, name)
    if speed is None:
        return "-"
    factor = speedup(row, name, over)
    text = f"{speed:.1f}" + ("" if factor is None else f" ({factor:.2f}x")
    peer = "stats" not in cell
    if name != PLAIN and not row["reads"]:
        equal = f"{cell['tokens_equal_to_plain']}/{row['new_tokens']}"
        text += f", {SAMPLED if peer and row['temperature'] else equal}"
    return text + ("" if factor is None else ")")


def _stats(document: Mapping[str, Any], name: str) -> Any:
    found = [row["contestants"][name].get("stats") for row in document["workloads"]]
    return next((stats for stats in found if stats is not None), None)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
