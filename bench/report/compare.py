"""Comparing two measurements: what became faster or slower by more than their noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specdec.bench.report.measurement import rate
from specdec.errors import InvalidArgument

TOLERANCE = 0.05  # a change below that is none, however steady the repeats


@dataclass(frozen=True)
class Change:
    """One contestant on one workload, before and after, in tokens/s."""

    workload: str
    name: str
    before: float
    after: float
    noise: float

    @property
    def factor(self) -> float:
        return self.after / self.before

    @property
    def verdict(self) -> str:
        """ "slower", "faster" or "same", by more than the noise of both."""
        if self.factor < 1.0 - self.noise:
            return "slower"
        return "faster" if self.factor > 1.0 + self.noise else "same"


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Every contestant and workload that both documents have.

    Raises InvalidArgument if there are none.
    """
    rows = {row["workload"]: row for row in before["workloads"]}
    changes = []
    for row in after["workloads"]:
        for name, cell in row["contestants"].items():
            old = rows.get(row["workload"])
            was, now = None if old is None else rate(old, name), rate(row, name)
            if old is None or was is None or now is None:
                continue
            spread = max(cell["spread"], old["contestants"][name]["spread"]) / 2
            changes.append(Change(row["workload"], name, was, now, max(TOLERANCE, spread)))
    if not changes:
        raise InvalidArgument("the two results have no workload and contestant in common")
    return changes


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What else is not the same, so that the comparison may not be fair."""
    lines = []
    for name in ("model", "dtype", "suite"):
        if before[name] != after[name]:
            lines.append(f"{name}: {before[name]} / {after[name]}")
    for name in ("cpu", "cores", "gpu", "torch", "transformers"):
        if before["machine"][name] != after["machine"][name]:
            lines.append(f"{name}: {before['machine'][name]} / {after['machine'][name]}")
    return lines
