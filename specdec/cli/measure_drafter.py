"""`specdec measure-drafter`: how much of what a target writes its LongSpec drafter foresees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from specdec.cli import arguments, console
from specdec.cli.prompts import read_prompts
from specdec.files import write_text


def measure_drafter(
    out: Annotated[Path, typer.Option(help="JSON file of the results.")],
    model: arguments.Model = "demo",
    checkpoint: Annotated[
        str | None, typer.Option(help="Of the drafter; default: the one that ships.")
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="As given for training: its held-out files are used.")
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            "--prompt-file", "-f", help="Questions (.jsonl with `turns`) for the chat texts."
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="Texts of each kind.")] = 8,
    max_new_tokens: arguments.MaxNewTokens = 96,
    lengths: Annotated[str, typer.Option(help="Contexts to compare, in tokens.")] = "500,2000,7500",
    long_count: Annotated[int, typer.Option(help="Texts of each kind for each context.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the choice of texts.")] = 0,
    as_json: arguments.AsJson = False,
) -> None:
    """Measure a drafter's agreement and acceptance length.

    On chat, code and prose, and at long contexts.

    The target's greedy texts are written first; drafts are then counted against them.

    \b
    Examples:
      specdec measure-drafter --out shipped.json
      specdec measure-drafter -m ./my-model --checkpoint ./my-drafter --json
      specdec measure-drafter -f questions.jsonl --count 16 --lengths 500,2000
    """
    from specdec.drafts.longspec.training.measure import measure

    questions = None
    if prompt_file is not None:
        questions = read_prompts(prompt_file)

    last: dict[str, Any] = {}

    def save(report: dict[str, Any]) -> None:
        last.update(report)
        write_text(out, json.dumps(report, indent=1) + "\n")

    measure(
        model,
        checkpoint,
        data or [],
        questions,
        count=count,
        new_tokens=max_new_tokens,
        lengths=[int(length) for length in lengths.split(",") if length],
        long_count=long_count,
        seed=seed,
        tell=lambda line: typer.echo(line, err=True),
        save=save,
    )
    if as_json:
        console.print_json(last)
