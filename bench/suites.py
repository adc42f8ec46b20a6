"""Suites: which workloads a name stands for, and what they need from the user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specdec.bench import workloads
from specdec.bench.ruler import ruler
from specdec.bench.visual import visual
from specdec.bench.workloads import Workload
from specdec.decoding.prompt_files import read_entries, read_text
from specdec.errors import InvalidArgument, unknown_name

SUITES = {
    "quick": "eight everyday tasks, from copying to chat; under 10 minutes on two cores",
    "spec-bench": "prompts of a .jsonl file, as of Spec-Bench, averaged per category",
    "depth": "llama-bench's shape: pp512, tg128, tg32 at growing depths",
    "long": "going on with code, prose and --prompt-file after --contexts tokens",
    "visual": "pictures to read, describe and count, by category, for a model that takes images",
    "ruler": "RULER's synthetic tasks, made by nvidia-long-context-eval",
}


def workloads_of(
    suite: str,
    tokenizer: Any,
    max_positions: int,
    prompt_files: Sequence[Path] = (),
    contexts: Sequence[int] | None = None,
    limit: int | None = None,
) -> list[Workload]:
    """The workloads of a suite, for a model with so many positions.

    prompt_files: for `spec-bench` .jsonl files with a field prompt, text or turns; for `long` text
    files, which join the built-in ones. contexts: tokens of context, for `depth`, `long`, `ruler`.
    Raises InvalidArgument for what a suite lacks or has no use for.
    """
    if suite not in SUITES:
        raise unknown_name("suite", suite, SUITES)
    if contexts and suite in ("quick", "spec-bench", "visual"):
        raise InvalidArgument(f"suite {suite!r} has no use for --contexts: its prompts are whole")
    if prompt_files and suite not in ("spec-bench", "long"):
        raise InvalidArgument(f"suite {suite!r} has no use for --prompt-file: it brings its own")
    fitting = [n for n in contexts or () if n + 16 > max_positions]
    if fitting:
        raise InvalidArgument(
            f"--contexts {fitting[0]} does not fit the model's {max_positions} positions"
        )
    if suite == "spec-bench":
        found = _from_files(prompt_files)
    elif suite == "long":
        found = workloads.long(_texts(prompt_files), contexts or _contexts(max_positions))
    elif suite == "depth":
        found = workloads.depth(max_positions, contexts)
    elif suite == "ruler":
        found = ruler(tokenizer, contexts or _contexts(max_positions))
    elif suite == "visual":
        found = visual(tokenizer)
    else:
        found = workloads.quick()
    return found[:limit]


def _contexts(max_positions: int) -> list[int]:
    return [n for n in (1000, 2000, 4000, 7500, 15000, 30000) if n + 256 < max_positions]


def _texts(files: Sequence[Path]) -> dict[str, str]:
    texts = {"code": workloads.source(), "prose": workloads.manual()}
    return texts | {file.stem: read_text(file) for file in files}


def _from_files(files: Sequence[Path]) -> list[Workload]:
    """A workload per line, interleaved over categories so that the first N are a fair sample."""
    if not files:
        raise InvalidArgument(
            "suite 'spec-bench' needs --prompt-file: a .jsonl with a field prompt, text or turns "
            "(Spec-Bench's question.jsonl: hemingkx/Spec-Bench, data/spec_bench)"
        )
    by_category: dict[str, list[Workload]] = {}
    for file in files:
        for entry in read_entries(file):
            category = str(entry.fields.get("category") or file.stem)
            place = entry.fields.get("question_id", entry.number)
            row = Workload(f"{category} {place}", category, entry.prompt, 64)
            by_category.setdefault(category, []).append(row)
    if not by_category:
        raise InvalidArgument(f"{files[0]} holds no prompts")
    longest = max(map(len, by_category.values()))
    return [rows[i] for i in range(longest) for rows in by_category.values() if i < len(rows)]
