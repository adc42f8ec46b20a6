"""Charts: a measurement as PNG pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from specdec.bench.report.measurement import ROUND, counted, names, rate, speedup
from specdec.decoding.stats import PLAIN

_MARKERS = "osDv^x"  # one each, so that a line under another one is seen
_PARTS = {"draft": "draft_s", "verify": "verify_s"}


def draw(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the pictures that the measurement has data for into `folder`; their paths.

    speed.png: tokens per second of everyone, by workload. speedup.png: against context length, with
    a line at 1.0. acceptance.png: by draft position. accepted.png: histogram of accepted draft
    tokens a pass. rounds.png: what a token costs in milliseconds, and where they go.
    """
    pictures = {
        "speed": _speed,
        "speedup": _speedup,
        "acceptance": _acceptance,
        "accepted": _accepted,
        "rounds": _rounds,
    }
    made = []
    for name, draw_into in pictures.items():
        figure, axes = _blank()
        if draw_into(document, axes):
            axes.set_title(f"{document['model'].split(',')[0]}: {axes.get_title()}", fontsize=10)
            made.append(folder / f"{name}.png")
            figure.savefig(made[-1], dpi=110)
    return made


def _blank() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def _speed(document: Mapping[str, Any], axes: Any) -> bool:
    rows = [row for row in document["workloads"] if not row["reads"]]
    everyone = names(document)
    height = 0.8 / max(len(everyone), 1)
    for place, name in enumerate(everyone):
        found = {i: speed for i, row in enumerate(rows) if (speed := rate(row, name))}
        ys = [i + (place - (len(everyone) - 1) / 2) * height for i in found]
        bars = axes.barh(ys, [*found.values()], height, label=name)
        axes.bar_label(bars, fmt="%.0f", fontsize=6, padding=1)
    axes.set_yticks(range(len(rows)), [row["workload"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="tokens per second")
    axes.margins(x=0.08)
    axes.set_title("speed")
    axes.figure.set_figheight(max(4.5, 0.14 * len(rows) * len(everyone) + 1.2))
    axes.legend(fontsize=8)
    return bool(rows)


def _speedup(document: Mapping[str, Any], axes: Any) -> bool:
    rows = [row for row in counted(document) if not row["reads"]]
    swept = document["suite"] in ("depth", "long", "ruler")
    for color, name in enumerate(_others(document)):
        points: dict[int, list[float]] = {}
        for row in rows:
            factor = speedup(row, name)
            if factor:
                points.setdefault(row["prompt_tokens"], []).append(factor)
        xs = sorted(points)
        ys = [geometric_mean(points[x]) for x in xs]
        axes.plot(xs, ys, "o-" if swept else "o", label=name, color=f"C{color}")
    axes.axhline(1.0, color="black", linewidth=1, linestyle="--")
    axes.set(xlabel="tokens of context", ylabel="times plain decoding")
    axes.set_title("speed-up against context length")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    return bool(rows) and len(names(document)) > 1


def _acceptance(document: Mapping[str, Any], axes: Any) -> bool:
    drawn = False
    for color, name in enumerate(_others(document)):
        rates = [s["acceptance_rate_per_position"] for s in _stats(document, name)]
        depth = max(map(len, rates), default=0)
        means = [_mean(r[i] for r in rates if len(r) > i) for i in range(depth)]
        if means:
            drawn = True
            style = _MARKERS[color % len(_MARKERS)] + ("--" if color % 2 else "-")
            axes.plot(range(1, depth + 1), means, style, label=name, color=f"C{color}", ms=4)
    axes.set(xlabel="draft position", ylabel="accepted, of those that reached it", ylim=(0, 1.02))
    axes.set_title("acceptance per position, mean over workloads")
    if drawn:
        axes.legend(fontsize=8)
    return drawn


def _accepted(document: Mapping[str, Any], axes: Any) -> bool:
    found = {n: _histogram(document, n) for n in _others(document)}
    found = {n: counts for n, counts in found.items() if sum(counts[1:])}
    width = 0.8 / max(len(found), 1)
    for place, (name, counts) in enumerate(found.items()):
        shares = [count / sum(counts) for count in counts]
        xs = [i + (place - (len(found) - 1) / 2) * width for i in range(len(shares))]
        axes.bar(xs, shares, width, label=name)
    axes.set(xlabel="accepted draft tokens of a pass", ylabel="share of passes")
    axes.set_title("accepted length")
    if found:
        axes.legend(fontsize=8)
    return bool(found)


def _rounds(document: Mapping[str, Any], axes: Any) -> bool:
    shown = [n for n in names(document) if _all_rounds(document, n)]
    bottoms = [0.0] * len(shown)
    rest = [_per_token(document, n, "whole_s") for n in shown]
    for part, column in _PARTS.items():
        heights = [_per_token(document, n, column) for n in shown]
        axes.bar(shown, heights, bottom=bottoms, label=part)
        bottoms = [b + h for b, h in zip(bottoms, heights, strict=True)]
    other = [max(r - b, 0.0) for r, b in zip(rest, bottoms, strict=True)]
    axes.bar(shown, other, bottom=bottoms, label="other")
    axes.set(ylabel="ms a token")
    axes.set_ylim(top=1.15 * max(rest, default=1.0))
    axes.set_title("what a token costs, mean over all rounds")
    axes.tick_params(axis="x", labelrotation=20, labelsize=8)
    axes.legend(fontsize=8)
    return bool(shown)


def _others(document: Mapping[str, Any]) -> list[str]:
    return [name for name in names(document) if name != PLAIN]


def _stats(document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    cells = [row["contestants"][name] for row in document["workloads"] if not row["reads"]]
    return [cell["stats"] for cell in cells if "stats" in cell]


def _histogram(document: Mapping[str, Any], name: str) -> list[int]:
    counts: list[int] = []
    for stats in _stats(document, name):
        more = stats["acceptance_histogram"]
        counts += [0] * (len(more) - len(counts))
        for place, count in enumerate(more):
            counts[place] += count
    return counts


def _all_rounds(document: Mapping[str, Any], name: str) -> list[list[Any]]:
    cells = [row["contestants"][name] for row in document["workloads"] if not row["reads"]]
    return [entry for cell in cells for run in cell.get("rounds", ()) for entry in run]


def _per_token(document: Mapping[str, Any], name: str, column: str) -> float:
    """Milliseconds of one part of all rounds, over the tokens that they emitted."""
    found = _all_rounds(document, name)
    tokens = sum(r[ROUND.index("emitted")] for r in found)
    return 1e3 * sum(r[ROUND.index(column)] for r in found) / tokens if tokens else 0.0


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known) if known else 0.0
