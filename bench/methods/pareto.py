"""Pareto: acceptance against bytes, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specdec.bench.methods.study import FULL
from specdec.bench.methods.summary import (
    acceptance,
    best_of_families,
    contexts,
    family,
    frontier,
    lines,
)

_GAINS = 1.5, 2, 3, 4, 6
_MARKS = "osD^v<>pP*Xhd8"


def draw(document: Mapping[str, Any], path: Path) -> list[Path]:
    """Write a PNG: share of drafts kept against bytes that a draft token reads, behind the longest
    context, every budget of a method a point, families by colour, with lines of equal gain. Named
    are the best of each family and those that nothing beats. Returns where, if there is anything
    to draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, PercentFormatter

    found = contexts(document)
    known = [x for x in lines(document, found[-1]) if x.moved is not None] if found else []
    known = [x for x in known if x.method != FULL]
    if not known:
        return []
    figure = Figure(figsize=(12, 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    families = list(dict.fromkeys(family(x) for x in known))
    for place, name in enumerate(families):
        mine = [x for x in known if family(x) == name]
        axes.plot(
            [x.moved or 0.0 for x in mine], [acceptance(x) for x in mine],
            _MARKS[place % len(_MARKS)], color=f"C{place % 10}", label=name, markersize=6,
            linestyle="none",
        )  # fmt: skip
    best = frontier(known)
    axes.plot([x.moved or 0.0 for x in best], [acceptance(x) for x in best], "k--", linewidth=0.8)
    depth, most = document["depth"], max(x.moved or 0.0 for x in known)
    for gain in _GAINS:
        moved = [n / 400 for n in range(1, int(400 * most) + 2)]
        rates = [(gain * (1 + depth * x) - 1) / depth for x in moved]
        axes.plot(moved, rates, color="0.8", linewidth=0.8, zorder=0)
        top = ((1 + depth) / gain - 1) / depth
        axes.annotate(f"gain {gain}", (top, 1.0), fontsize=7, color="0.5",
                      xytext=(0, 12), textcoords="offset points", rotation=45)  # fmt: skip
    for line in {x.name: x for x in (*best, *best_of_families(known))}.values():
        axes.annotate(line.name, (line.moved, acceptance(line)), fontsize=7,
                      xytext=(4, 4), textcoords="offset points")  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(0.0, 1.1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, 0))
    axes.xaxis.set_minor_locator(LogLocator(10, (2.0, 5.0)))
    axes.xaxis.set_minor_formatter(PercentFormatter(1.0, 0))
    axes.set_xlim(0.8 * min(x.moved or most for x in known), 1.1 * most)
    axes.set(xlabel="bytes that a draft token reads, as a share of the cache's",
             ylabel=f"drafts kept, of chains of {depth}")  # fmt: skip
    axes.set_title(f"{document['model']}, {found[-1]} tokens of context")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    return [path]
