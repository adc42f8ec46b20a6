"""Measurements: what runs come to, with medians and spread, and everything raw beside it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import geometric_mean, median
from typing import Any

from specdec.bench.contestants import Run
from specdec.bench.workloads import Workload
from specdec.decoding.stats import PLAIN

NEVER_SLOWER, NEAR_BEST = 0.98, 0.95  # the contract of `auto`: against plain, and the best fixed


@dataclass
class Cell:
    """The runs of one contestant on one workload, or why there are none."""

    runs: list[Run] = field(default_factory=list)
    error: str | None = None


def summarise(
    workload: Workload,
    prompt_tokens: int,
    temperature: float,
    cells: Mapping[str, Cell],
    ends: Container[int] = (),
) -> dict[str, Any]:
    """One workload of the document: what everyone did, and whether the text degenerated.

    ends: the model's end tokens. Nobody stops at them, so that all texts are equally long; behind
    the first one it is no answer any more, and `ends_after` says how many tokens came before.
    """
    plain = cells[PLAIN].runs[0].token_ids
    name = workload.name if not temperature else f"{workload.name}, T={temperature:g}"
    return {
        "workload": name,
        "summary": workload.summary,
        "prompt_tokens": prompt_tokens,
        "new_tokens": len(plain),
        "temperature": temperature,
        "reads": workload.reads,
        "loops": loops(plain),
        "ends_after": next((i for i, token in enumerate(plain) if token in ends), None),
        "token_ids": plain,
        "contestants": {
            who: _cell(cell, plain, workload.reads, prompt_tokens) for who, cell in cells.items()
        },
    }


def _cell(cell: Cell, plain: Sequence[int], reads: bool, prompt_tokens: int) -> dict[str, Any]:
    if not cell.runs:
        return {"error": cell.error or "not run"}
    rates = [prompt_tokens / r.first_s if reads else r.tokens_per_s for r in cell.runs]
    middle = median(rates)
    figures: dict[str, Any] = {
        "tokens_per_s": middle,
        "spread": (max(rates) - min(rates)) / middle if middle else 0.0,
        "all_tokens_per_s": rates,
        "first_s": median(r.first_s for r in cell.runs),
        "tokens_equal_to_plain": min(agreement(r.token_ids, plain) for r in cell.runs),
    }
    if cell.runs[0].stats is not None:
        figures["stats"] = cell.runs[0].stats.to_dict()
        figures["explanation"] = cell.runs[0].stats.explanation
        figures["rounds"] = [_rounds(r) for r in cell.runs]
    return figures


def _rounds(run: Run) -> list[list[Any]]:
    """Every round's figures, in the order of `ROUND`."""
    assert run.stats is not None
    return [
        [s.proposer, s.nodes, accepted, s.emitted, *(round(x, 6) for x in s[3:])]
        for s, accepted in zip(run.stats.steps, run.stats.accepted, strict=True)
    ]


ROUND = ("proposer", "nodes", "accepted", "emitted", "draft_s", "verify_s", "whole_s")


def loops(tokens: Sequence[int], window: int = 48) -> bool:
    """Whether a text ends in a loop: one phrase of up to a third of the window, over and over."""
    tail = list(tokens[-window:])
    return any(tail[period:] == tail[:-period] for period in range(1, len(tail) // 3 + 1))


def agreement(tokens: Sequence[int], plain: Sequence[int]) -> int:
    """How many tokens are equal before the first difference."""
    pairs = zip(tokens, plain, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(tokens), len(plain)))


def names(document: Mapping[str, Any]) -> list[str]:
    """Everyone who takes part, in order."""
    return list(document["workloads"][0]["contestants"]) if document["workloads"] else []


def base(document: Mapping[str, Any]) -> str:
    """Whom speeds are given as multiples of: transformers if it runs, else plain decoding."""
    return "hf" if "hf" in names(document) else PLAIN


def rate(row: Mapping[str, Any], name: str) -> float | None:
    """Tokens per second of one contestant, if it has any."""
    value = row["contestants"].get(name, {}).get("tokens_per_s")
    return float(value) if value else None


def speedup(row: Mapping[str, Any], name: str, over: str = PLAIN) -> float | None:
    """How many times as fast as another contestant."""
    mine, other = rate(row, name), rate(row, over)
    return None if mine is None or other is None else mine / other


def average(document: Mapping[str, Any], name: str, over: str) -> float | None:
    """Geometric mean of the speed-ups over all workloads whose text does not end in a loop."""
    return mean_speedup(counted(document), name, over)


def mean_speedup(rows: Sequence[Mapping[str, Any]], name: str, over: str) -> float | None:
    """Geometric mean of the speed-ups over some workloads."""
    found = [speedup(row, name, over) for row in rows]
    known = [value for value in found if value]
    return geometric_mean(known) if known else None


def counted(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Workloads that count: texts that loop flatter whoever copies."""
    return [row for row in document["workloads"] if not row["loops"] or row["reads"]]


def contract(document: Mapping[str, Any]) -> list[str]:
    """The contract of `auto`, workload by workload: a line each where it is missed, and a sum."""
    everyone = names(document)
    if "auto" not in everyone:
        return []
    fixed = [n for n in everyone if "rounds" in _of(document, n) and n not in (PLAIN, "auto")]
    met, lines = 0, []
    rows = [row for row in document["workloads"] if not row["reads"]]
    for row in rows:
        over_plain = speedup(row, "auto") or 0.0
        rivals = [value for n in fixed if (value := speedup(row, "auto", n)) is not None]
        over_best = min(rivals, default=1.0)
        if over_plain >= NEVER_SLOWER and over_best >= NEAR_BEST:
            met += 1
            continue
        cells = [row["contestants"][n] for n in (PLAIN, "auto")]
        noise = f"repeats spread by {max(c['spread'] for c in cells):.0%}"
        if len(cells[0].get("all_tokens_per_s", ())) == 1:
            noise = "one run each"
        lines.append(
            f"{row['workload']}: auto is {over_plain:.2f}x plain and {over_best:.2f}x the best "
            f"fixed drafter ({noise})"
        )
    head = (
        f"auto is at least {NEVER_SLOWER}x plain and {NEAR_BEST}x the best fixed drafter in {met} "
        f"of {len(rows)} workloads"
    )
    return [head + (":" if lines else "."), *lines]


def _of(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    cell: Mapping[str, Any] = document["workloads"][0]["contestants"][name]
    return cell
