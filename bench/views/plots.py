"""Plots: a profile of views as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

STYLES = ("-", "--", ":", "-.")  # one a budget


def plot_profile(document: dict[str, Any], path: Path) -> None:
    """Write a PNG with two panels: overlap by draft position, recall of attention by layer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(13, 5), layout="constrained")
    FigureCanvasAgg(figure)
    overlap, recall = figure.subplots(1, 2)
    names = list(dict.fromkeys(row["view"] for row in document["views"]))
    budgets = list(dict.fromkeys(row["budget"] for row in document["views"]))
    for row in document["views"]:
        style = {
            "color": f"C{names.index(row['view'])}",
            "linestyle": STYLES[budgets.index(row["budget"]) % len(STYLES)],
            "label": f"{row['view']} {row['budget']}",
        }
        overlap.plot(range(1, 1 + len(row["overlap"])), row["overlap"], marker=".", **style)
        recall.plot(range(len(row["recall"])), row["recall"], **style)
    overlap.set(xlabel="draft position", ylabel="sum of min(p, q)", ylim=(None, 1.005))
    overlap.set_title("Overlap with the full view")
    recall.set(xlabel="layer", ylabel="share of attention mass", ylim=(None, 1.005))
    recall.set_title("Attention mass on the keys that are read")
    for axes in (overlap, recall):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*overlap.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.suptitle(f"{document['model']}, {document['num_prompt_tokens']} tokens of context")
    figure.savefig(path, dpi=120)
