"""A training log as a picture: loss, agreement and acceptance length over the steps."""

from __future__ import annotations

import json
from pathlib import Path


def plot_log(log: Path, picture: Path) -> None:
    """Draw `log` (one JSON line per examination) to `picture`, a .png or .svg file."""
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(steps[1:], [row["mean_loss"] for row in rows][1:], marker=".")
    left.set(xlabel="step", ylabel="training loss")
    for k in (1, 2, 3, 4):
        right.plot(steps, [row[f"top{k}"] for row in rows], label=f"top-{k} agreement")
    lengths = right.twinx()
    lengths.plot(
        steps, [row["acceptance_length"] for row in rows], "k--", label="acceptance length"
    )
    lines = [*right.get_lines(), *lengths.get_lines()]
    lengths.set_ylabel("acceptance length, chain of 4")
    right.set(xlabel="step", ylabel="agreement on held-out texts")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(handles=lines, loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(picture, dpi=120)
