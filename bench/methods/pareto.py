"""Pareto: acceptance against bytes, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specdec.bench.methods.study import FULL
from specdec.bench.methods.summary import acceptance, contexts, family, frontier, lines

_MARKS = "osD^v<>pP*Xhd8"


def draw(document: Mapping[str, Any], path: Path) -> list[Path]:
    """Write a PNG: share of drafts kept against bytes that a draft token reads, behind the longest
    context, every budget of a method a point, families by colour. Returns where, if there is
    anything to draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

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
    for line in best:
        axes.annotate(line.name, (line.moved, acceptance(line)), fontsize=7,
                      xytext=(4, 4), textcoords="offset points")  # fmt: skip
    axes.set_xscale("log")
    axes.set(xlabel="bytes that a draft token reads, as a share of the cache's",
             ylabel=f"drafts kept, of chains of {document['depth']}")  # fmt: skip
    axes.set_title(f"{document['model']}, {found[-1]} tokens of context")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    return [path]
