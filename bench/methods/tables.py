"""Tables: a study as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from specdec.bench.methods.study import FULL
from specdec.bench.methods.summary import (
    Line,
    acceptance,
    best_of_families,
    contexts,
    family,
    frontier,
    lines,
    per_byte,
    rank_correlation,
)

BEST = 15  # lines of a ranking
_HEAD = (
    "method", "family", "budget", "kept greedy", "kept T = 1", "tokens/pass greedy",
    "tokens/pass T = 1", "gain", "overlap 1 to 8", "read", "choosing", "beside", "pace", "RULER",
    "shared", "agrees",
)  # fmt: skip
_NOTES = """\
- **kept**: drafts that the target keeps, of chains of {depth}; **tokens/pass**: what a pass of the target brings, its own token included.
- **gain**: tokens for as many bytes as one reading of the whole cache has, where plain decoding has 1: (1 + drafts kept of n) / (1 + n (read + choosing)), for the n up to {depth} that brings most, over greedy and drawn texts.
- **overlap**: sum of min(p, q) with the full view's law at draft positions 1, 2, 4 and {depth} of texts drawn at temperature 1.
- **read**: bytes of keys and values that a draft token reads; **choosing**: bytes that are read to choose anew, of indices or of all keys, without the first choice behind a prompt; **beside**: bytes kept besides the cache. All as shares of the cache's bytes.
- **pace**: time of a draft's first pass, which may choose anew, in passes of the full view; the two take turns. On a busy machine it says no more than which passes are much slower.
- **RULER**, **shared**: right answers where the method stands for the model: with the question before the choice, and behind it, alone and in turns (after SCBench). **agrees**: tokens of the full cache's answers that it would have said, too.
"""  # noqa: E501


def markdown(document: Mapping[str, Any]) -> str:
    """All methods at all budgets, what is best per byte at each context, and what is missing."""
    found = _sorted(document)
    parts = [caption(document), comparison(document), _NOTES.format(**document)]
    at = {context: lines(document, context) for context in contexts(document)}
    if len(at) > 1:
        parts += ["## By context", table(_by_context(found, at))]
    for context, known in at.items():
        parts += [
            f"## Best per byte behind {context} tokens", table(ranking(known, BEST)),
            f"## What nothing beats per byte behind {context} tokens", table(_frontier(known)),
        ]  # fmt: skip
    parts += ["## What a lossy score says about drafts: rank correlations", correlations(found)]
    parts += ["## What there is", coverage(document)]
    errors = _errors(found)
    if errors:
        parts += ["## Refused", *errors]
    return "\n\n".join(parts) + "\n"


def comparison(document: Mapping[str, Any]) -> str:
    """The one table: all methods at all budgets."""
    return table([_HEAD, *map(_row, _sorted(document))])


def _sorted(document: Mapping[str, Any]) -> list[Line]:
    return sorted(lines(document), key=lambda x: (x.method != FULL, family(x), x.method))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as Markdown, the first one its head."""
    head, *body = rows
    ruled = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)


def coverage(document: Mapping[str, Any]) -> str:
    """How many methods there are of each text and task, by budget; those refused count, too."""
    found: dict[str, dict[str, set[str]]] = {}
    for name in document["cells"]:
        method, budget, where = name.split(" | ")
        if method != FULL:
            found.setdefault(where.split(",")[0], {}).setdefault(budget, set()).add(method)
    budgets = sorted({b for known in found.values() for b in known}, key=lambda b: (len(b), b))
    budgets = [*(b for b in budgets if b != "-"), *(b for b in budgets if b == "-")]
    rows = [["text or task", *(b if b != "-" else "without a budget" for b in budgets)]]
    rows += [[w, *(str(len(known.get(b, ()))) for b in budgets)] for w, known in found.items()]
    return table(rows)


def correlations(found: Sequence[Line]) -> str:
    """Rank correlation over methods, at each budget, of what a lossy method answers, and of the
    bytes that it reads, with the drafts that are kept and with the overlap."""
    drafted: dict[str, Callable[[Line], float]] = {
        "drafts kept": acceptance, "overlap": lambda x: sum(x.overlap) / len(x.overlap)
    }  # fmt: skip
    lossy: dict[str, Callable[[Line], float | None]] = {
        "RULER": lambda x: x.ruler, "shared": lambda x: x.shared, "agrees": lambda x: x.agreed,
        "bytes": lambda x: x.moved,
    }  # fmt: skip
    rows = [["budget", "drafts", "methods", *lossy]]
    known = [x for x in found if x.method != FULL and x.overlap and x.agreed is not None]
    for budget in dict.fromkeys(x.budget for x in known):
        mine = [x for x in known if x.budget == budget]
        for name, rate in drafted.items():
            pairs = (
                [(y, rate(x)) for x in mine if (y := of(x)) is not None] for of in lossy.values()
            )
            where = "none" if budget is None else f"{budget} %"
            rows.append([where, name, str(len(mine)), *map(_correlation, pairs)])
    return table(rows)


def _correlation(pairs: Sequence[tuple[float, float]]) -> str:
    rho = rank_correlation(*zip(*pairs, strict=True)) if len(pairs) > 2 else math.nan
    return "-" if math.isnan(rho) else f"{rho:+.2f}"


def caption(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    return (
        f"{document['model']} ({document['weights']}); drafts of {document['depth']} tokens, "
        f"{document['rounds']} a text, greedy and at temperature 1; {machine['cpu']}, torch "
        f"{machine['torch']}, commit {machine['commit']}."
    )


def _row(line: Line) -> list[str]:
    places = sorted({0, 1, 3, len(line.overlap) - 1}) if line.overlap else []
    overlap = " ".join(f"{line.overlap[i]:.2f}" for i in places if i < len(line.overlap))
    rates = [_figure(x.get(m), ".1%") for x in (line.accepted,) for m in ("greedy", "sampled")]
    tokens = [_figure(line.tokens.get(m), ".2f") for m in ("greedy", "sampled")]
    return [
        f"`{line.method}`",
        family(line),
        "-" if line.budget is None else f"{line.budget} %",
        *rates,
        *tokens,
        _gain(line)[0],
        overlap or "-",
        *(_figure(x, ".1%") for x in (line.read, line.chosen, line.kept)),
        _figure(line.pace, ".2f"),
        *(_figure(x, ".0%") for x in (line.ruler, line.shared, line.agreed)),
    ]


def families(known: Iterable[Line]) -> list[list[str]]:
    """The line of each family that has the greatest gain."""
    return ranking(best_of_families(known))


def ranking(known: Iterable[Line], count: int | None = None) -> list[list[str]]:
    """The `count` lines (None: all) with the greatest gain, and how sure their acceptance is."""
    rows = [["method", "family", "gain", "chain", "kept", "overlap", "bytes"]]
    for line in per_byte(known)[:count]:
        kept = f"{acceptance(line):.0%} ± {line.doubt:.0%}"
        overlap = f"{sum(line.overlap) / len(line.overlap):.2f}" if line.overlap else "-"
        what = family(line), *_gain(line), kept, overlap, _figure(line.moved, ".1%")
        rows.append([f"`{line.name}`", *what])
    return rows


def _by_context(found: Sequence[Line], at: Mapping[int, Sequence[Line]]) -> list[list[str]]:
    known = {n: {x.name: x for x in mine} for n, mine in at.items()}
    rows = [["method", *(f"kept @ {n}" for n in at), *(f"bytes @ {n}" for n in at)]]
    for line in found:
        mine = [known[n].get(line.name) for n in at]
        if any(x is not None and x.read is not None for x in mine):
            kept = [_figure(None if x is None or x.read is None else acceptance(x), ".1%")
                    for x in mine]  # fmt: skip
            moved = [_figure(None if x is None else x.moved, ".1%") for x in mine]
            rows.append([f"`{line.name}`", *kept, *moved])
    return rows


def _frontier(known: Iterable[Line]) -> list[list[str]]:
    rows = [["method", "bytes", "kept", "tokens/pass greedy", "tokens/pass T = 1"]]
    for line in frontier(known):
        tokens = [_figure(line.tokens.get(m), ".2f") for m in ("greedy", "sampled")]
        kept = _figure(acceptance(line), ".1%")
        rows.append([f"`{line.name}`", _figure(line.moved, ".1%"), kept, *tokens])
    return rows


def _errors(found: Iterable[Line]) -> list[str]:
    said = [f"- `{x.name}`: {' '.join(why.split())}" for x in found for why in x.errors]
    return ["\n".join(said)] if said else []


def _gain(line: Line) -> tuple[str, str]:
    """The gain, and the length of chain that has it."""
    return ("-", "-") if line.gain is None else (f"{line.gain[0]:.2f}", str(line.gain[1]))


def _figure(x: float | None, how: str) -> str:
    return "-" if x is None else format(x, how)
