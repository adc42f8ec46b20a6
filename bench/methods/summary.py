"""Summary: what the cells of a study come to, method by method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from specdec.bench.methods.study import FULL, MODES
from specdec.bench.roster import named
from specdec.bench.ruler import TASKS
from specdec.registry import VIEWS

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """A method at a budget: means over the texts and tasks that there are of it; None: none.

    accepted: drafts kept of those made, by mode; tokens: for each pass of the target; overlap: at
    each draft position. rounds: drafts kept of each chain, over both modes. depth: of the chains.
    read, chosen, kept: shares of the bytes of a text's keys and values.
    pace: the median, since a machine that is held up is so for long.
    ruler, shared: right answers where the question was known, or not, when tokens were chosen;
    agreed: with the full cache's answers. errors: why there are cells without figures.
    """

    method: str
    budget: int | None
    accepted: Mapping[str, float | None]
    tokens: Mapping[str, float | None]
    overlap: Sequence[float]
    read: float | None
    chosen: float | None
    kept: float | None
    pace: float | None
    ruler: float | None
    shared: float | None
    agreed: float | None
    errors: tuple[str, ...] = ()
    rounds: Sequence[int] = ()
    depth: int = 0

    @property
    def moved(self) -> float | None:
        """Bytes that a draft token reads, those read to choose included."""
        return None if self.read is None else self.read + (self.chosen or 0.0)

    @property
    def gain(self) -> tuple[float, int] | None:
        """Tokens for as many bytes as one reading of the whole cache has, and the length of chain
        up to `depth` that brings most. Plain decoding has 1, a chain of n

            (1 + mean of min(kept, n)) / (1 + n * moved),

        which is the gain in time where nothing but keys and values takes any."""
        if self.moved is None or not self.rounds:
            return None
        sizes = range(1, self.depth + 1)
        kept = [1 + sum(min(x, n) for x in self.rounds) / len(self.rounds) for n in sizes]
        return max((x / (1 + n * self.moved), n) for n, x in zip(sizes, kept, strict=True))

    @property
    def doubt(self) -> float:
        """Standard error of the share of drafts kept, as if rounds had nothing to do with each
        other; nan of less than two."""
        if len(self.rounds) < 2:
            return float("nan")
        return float(np.std(self.rounds, ddof=1)) / len(self.rounds) ** 0.5 / self.depth

    @property
    def name(self) -> str:
        return self.method if self.budget is None else f"{self.method} {self.budget} %"


def lines(document: Document, context: int | None = None) -> list[Line]:
    """All methods at all budgets; with a context, of drafts behind so many tokens alone."""
    found: dict[tuple[str, int | None], dict[str, Any]] = {}
    for name, cell in document["cells"].items():
        method, budget, where = name.split(" | ")
        setting = (method, None if budget == "-" else int(budget.removesuffix(" %")))
        found.setdefault(setting, {})[where] = cell
    return [_line(document["depth"], *setting, cells, context) for setting, cells in found.items()]


def contexts(document: Document) -> list[int]:
    """The contexts that methods have drafted behind."""
    names = (name.split(" | ")[2] for name, cell in document["cells"].items() if "greedy" in cell)
    return sorted({int(name.rpartition(" @ ")[2]) for name in names})


def _line(
    depth: int, method: str, budget: int | None, cells: Mapping[str, Any], context: int | None
) -> Line:
    drafted = {w: x for w, x in cells.items() if "greedy" in x}
    if context is not None:
        drafted = {w: x for w, x in drafted.items() if w.endswith(f" @ {context}")}
    asked = {w: x for w, x in cells.items() if "score" in x}
    errors = {x["error"] for x in cells.values() if "error" in x}
    errors |= {x[m]["error"] for x in drafted.values() for m in MODES if "error" in x[m]}
    both = [x[mode] for x in drafted.values() for mode in MODES if "error" not in x[mode]]
    runs = {
        mode: [n for x in drafted.values() for n in x[mode].get("accepted", ())] for mode in MODES
    }
    tokens = {mode: _mean(found) for mode, found in runs.items()}
    sampled = [x["sampled"]["overlap"] for x in drafted.values() if "overlap" in x["sampled"]]
    return Line(
        method,
        budget,
        {mode: None if n is None else n / depth for mode, n in tokens.items()},
        {mode: None if n is None else n + 1 for mode, n in tokens.items()},
        [float(x) for x in np.mean(sampled, axis=0)] if sampled else [],
        _mean(x["read"] for x in both),
        _mean(x["chosen"] for x in both),
        _mean(x["kept"] for x in both),
        _median(x["pace"] for x in both if x["pace"] is not None),
        _mean(x["score"] for w, x in asked.items() if is_ruler(w)),
        _mean(x["score"] for w, x in asked.items() if not is_ruler(w)),
        _mean(x["agreed"] for x in asked.values()),
        tuple(sorted(errors)),
        [n for found in runs.values() for n in found],
        depth,
    )


def family(line: Line) -> str:
    """That of the line's method; none for one that the registry does not have any more."""
    name = named(line.method)[0]
    return str(VIEWS[name].load().family) if name in VIEWS else ""


def is_ruler(where: str) -> bool:
    """Whether a cell is of one of RULER's tasks."""
    return where.partition(" @ ")[0] in TASKS


def per_byte(found: Iterable[Line]) -> list[Line]:
    """Those with a gain, the greatest first."""
    known = [(x.gain, x) for x in found if x.gain is not None and x.method != FULL]
    return [x for _, x in sorted(known, key=lambda pair: -pair[0][0])]


def best_of_families(found: Iterable[Line]) -> list[Line]:
    """The line of each family that has the greatest gain, the best family first."""
    best: dict[str, Line] = {}
    for line in per_byte(found):
        best.setdefault(family(line), line)
    return list(best.values())


def frontier(found: Iterable[Line]) -> list[Line]:
    """Those that no other beats: nobody reads less and has more of its drafts kept, greedy and
    sampled together; by bytes."""
    best: list[Line] = []
    known = [x for x in found if x.moved is not None and x.method != FULL]
    for line in sorted(known, key=lambda x: (x.moved, -acceptance(x))):
        if not best or acceptance(line) > acceptance(best[-1]):
            best.append(line)
    return best


def acceptance(line: Line) -> float:
    """Drafts kept of those made, over greedy and sampled texts."""
    known = [x for x in line.accepted.values() if x is not None]
    return sum(known) / len(known) if known else 0.0


def rank_correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Spearman's rho: the correlation of ranks, equal values sharing theirs; nan where one side
    has nothing but equal values."""
    a, b = (_ranks(np.asarray(x, np.float64)) for x in (xs, ys))
    if not a.std() or not b.std():
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(x: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    below, upto = (x[:, None] > x).sum(1), (x[:, None] >= x).sum(1)
    ranks: np.ndarray[Any, np.dtype[np.float64]] = (below + upto + 1) / 2.0
    return ranks


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return median(known) if known else None


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return sum(known) / len(known) if known else None
