"""`specdec bench`: tokens per second against plain decoding and peers, in one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from specdec.cli import arguments, console, options
from specdec.errors import InvalidArgument
from specdec.progress import progress_bar

QUICK_SECONDS = 480.0  # after which suite quick begins no further turn: 10 minutes with loading
INTERRUPTED = 130


@options.MethodOptions()
def run(
    call: typer.Context,
    model: arguments.Model = "demo",
    suite: Annotated[
        str, typer.Option("--suite", "-s", help="quick, spec-bench, depth, long, ruler or visual.")
    ] = "quick",
    drafters: Annotated[
        str,
        typer.Option(
            "--drafters",
            "-d",
            help="Separated by commas; an option of one alone as in ngram:num_draft_tokens=8.",
        ),
    ] = "auto,ngram",
    baselines: Annotated[
        str,
        typer.Option(
            help="Of hf, hf-pld, hf-assisted, llama.cpp, llama.cpp-pld, llama.cpp-f32, "
            "openvino, openvino-pld; empty for none."
        ),
    ] = "hf,hf-pld",
    prompt_file: Annotated[
        list[Path] | None,
        typer.Option(
            "--prompt-file",
            "-f",
            help=".jsonl with prompts for spec-bench, a text for long; may be repeated.",
        ),
    ] = None,
    contexts: Annotated[
        str | None,
        typer.Option(help="Tokens of context for depth, long and ruler, as in 512,2048."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N workloads.")] = None,
    temperature: Annotated[
        str, typer.Option("--temperature", "-t", help="One or several, as in 0,1; 0 is greedy.")
    ] = "0",
    seed: Annotated[int, typer.Option(help="Of sampled texts.")] = 0,
    repeats: arguments.Turns = 3,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", "--max-tokens", "-n", min=1)
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(help="Seconds after which no further turn begins. Default for quick: 480."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for result.json, result.md, plots and report.html."),
    ] = None,
    dtype: arguments.Dtype = "auto",
    activations: arguments.Activations = "auto",
    weights: arguments.Weights = "auto",
    device: arguments.Device = "auto",
    threads: arguments.Threads = None,
    trust_remote_code: arguments.TrustRemoteCode = False,
    as_json: arguments.AsJson = False,
) -> None:
    """Decode a suite's prompts with everyone in turn.

    Speed, acceptance and text are compared.

    Plain decoding by the same engine always takes part. Ctrl-C keeps what was measured.

    \b
    Examples:
      specdec bench run
      specdec bench run --suite depth --baselines hf,llama.cpp --out depth
      specdec bench run --suite long --contexts 4000 -d quest,snapkv \\
          --num-draft-tokens 4 --budget 512 -t 0,1 --baselines ""
      specdec bench run --suite spec-bench -f question.jsonl --limit 26 -d auto
    """
    from specdec.bench import runner
    from specdec.bench.report.files import check_free, write
    from specdec.bench.suites import workloads_of

    if out is not None:
        check_free(out)
    engine = console.load_engine(
        model, dtype, device, trust_remote_code, activations=activations, weights=weights
    )
    if engine.tokenizer is None:
        raise InvalidArgument("this model has no tokenizer, and prompts need one")
    workloads = workloads_of(
        suite,
        engine.tokenizer,
        engine.target.max_positions,
        prompt_file or (),
        [int(n) for n in _numbers("--contexts", contexts)] if contexts else None,
        limit,
    )
    drafting = options.drafting(engine, call)
    plan = runner.Plan(
        workloads,
        repeats,
        _numbers("--temperature", temperature),
        seed,
        max_new_tokens,
        QUICK_SECONDS if time_limit is None and suite == "quick" else time_limit,
    )
    with progress_bar("Measuring", time_left=True) as progress:
        document = runner.run(
            engine, model, suite, plan, _names(drafters), _names(baselines), drafting, progress
        )
    written = write(document, out) if out is not None else []
    if as_json:
        console.print_json(document)
    else:
        _print(document, written)
    if not document["finished"]:
        raise typer.Exit(INTERRUPTED)


def compare(
    before: Annotated[Path, typer.Argument(help="result.json, or its folder.")],
    after: Annotated[Path, typer.Argument(help="The same of a later run.")],
    as_json: arguments.AsJson = False,
) -> None:
    """Compare two measurements of `specdec bench run`.

    Ends with status 1 if something became slower. A change counts if it exceeds 5 % and half the
    spread of the repeats.

    \b
    Examples:
      specdec bench compare before/result.json after/result.json
      specdec bench compare before after --json
    """
    from specdec.bench.report import compare as comparing
    from specdec.bench.report.files import read

    old, new = (read(file) for file in (before, after))
    changes = comparing.compare(old, new)
    differences = comparing.differences(old, new)
    slower = sum(change.verdict == "slower" for change in changes)
    if as_json:
        found = [{**vars(c), "factor": c.factor, "verdict": c.verdict} for c in changes]
        console.print_json({"changes": found, "differences": differences, "slower": slower})
    else:
        head = ["workload", "who", "before", "after", "factor", "verdict"]
        rows = [
            [c.workload, c.name, f"{c.before:.1f}", f"{c.after:.1f}", f"{c.factor:.2f}x", c.verdict]
            for c in changes
        ]
        _print_table([head, *rows])
        for line in differences:
            console.out().print(f"not the same: {line}", style="yellow", markup=False)
        console.out().print(f"{slower} of {len(changes)} became slower", markup=False)
    if slower:
        raise typer.Exit(1)


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _numbers(option: str, text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0:
        raise InvalidArgument(f"{option} {text!r}: give numbers, as in 0,1")
    return numbers


def _print(document: dict[str, Any], written: Sequence[Path]) -> None:
    from specdec.bench.report.categories import category_table
    from specdec.bench.report.tables import acceptance_table, caption, notes, table

    out = console.out()
    if not document["workloads"]:
        out.print("Nothing was measured.", style="red")
        for line in notes(document):
            out.print(line, markup=False)
        return
    out.print(caption(document), style="dim", markup=False)
    _print_table(table(document))
    for line in notes(document):
        out.print(line, markup=False)
    for more in (acceptance_table(document), category_table(document)):
        if len(more) > 1:
            out.print()
            _print_table(more)
    if written:
        out.print("written: " + ", ".join(map(str, written)), style="dim", markup=False)


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    from rich.measure import Measurement
    from rich.table import Table

    head, *body = rows
    table, out = Table(box=None, header_style="bold"), console.out()
    for place, column in enumerate(head):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    for row in body:
        table.add_row(*row)
    # A table wider than the terminal, or than the 80 columns of a pipe, is still a table.
    wanted = Measurement.get(out, out.options.update(max_width=1000), table).maximum
    out.width = max(out.width, wanted)
    out.print(table)
