"""`specdec bench`: tokens per second against plain decoding and transformers, in one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from specdec.cli import arguments, console
from specdec.progress import progress_bar
from specdec.registry import BENCH

bench = typer.Typer(help="Measure speed.", no_args_is_help=True)


@bench.command("run")
def run(
    model: arguments.Model = "demo",
    drafters: Annotated[str, typer.Option(help="Separated by commas.")] = "ngram",
    baselines: Annotated[str, typer.Option(help="Of hf, hf-pld; empty for none.")] = "hf,hf-pld",
    repeats: Annotated[int, typer.Option(min=1, help="Measured rounds; medians count.")] = 3,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", "-n", min=16)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for result.json and result.md.")] = None,
    dtype: arguments.Dtype = "auto",
    device: arguments.Device = "auto",
    as_json: arguments.AsJson = False,
) -> None:
    """Decode copy, edit, summary and chat prompts with everyone in turn, and compare.

    \b
    Examples:
      specdec bench run
      specdec bench run --drafters ngram --baselines hf --repeats 5 --out results
    """
    engine = console.load_engine(model, dtype, device, False)
    with progress_bar("Measuring") as progress:
        document = BENCH["run"].load()(
            engine,
            model,
            [d for d in drafters.split(",") if d],
            [b for b in baselines.split(",") if b],
            repeats=repeats,
            max_new_tokens=max_new_tokens,
            progress=progress,
        )
    table = BENCH["markdown"].load()(document)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "result.json").write_text(json.dumps(document, indent=1) + "\n")
        (out / "result.md").write_text(table)
    if as_json:
        console.print_json(document)
    else:
        console.out().print(table, markup=False)
