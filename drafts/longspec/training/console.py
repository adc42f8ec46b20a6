"""Console: a progress bar of a training run, and a line for each examination."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Console:
    """Shows steps, loss, agreement and acceptance length on stderr; silent if not `shown`."""

    def __init__(self, steps: int, shown: bool) -> None:
        self.shown = shown
        columns = (
            TextColumn("training"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"), TimeRemainingColumn(),
        )  # fmt: skip
        terminal = Terminal(stderr=True)
        self._bar = Progress(
            *columns, console=terminal, disable=not (shown and terminal.is_terminal)
        )
        self._task = self._bar.add_task("training", total=steps, loss="")

    def report(self, row: dict[str, Any]) -> None:
        """Take up a step (`loss`) or an examination (`acceptance_length`)."""
        if not self.shown:
            return
        if "loss" in row:
            self._bar.update(self._task, completed=row["step"], loss=f"loss {row['loss']:.3f}")
        elif "acceptance_length" in row:
            tops = " ".join(f"top{k} {row[f'top{k}']:.3f}" for k in (1, 2, 3, 4))
            line = (
                f"step {row['step']}: loss {row['mean_loss']:.3f}, {tops}, "
                f"acceptance length {row['acceptance_length']:.3f}"
            )
            self._bar.console.print(line) if self._bar.console.is_terminal else print(
                line, file=sys.stderr, flush=True
            )

    def __enter__(self) -> Console:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
