"""`specdec bench methods`: all KV methods in one table, as drafters and as caches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from specdec.cli import arguments, console
from specdec.errors import InvalidArgument
from specdec.progress import progress_bar

INTERRUPTED = 130


def methods(
    model: arguments.Model = "demo",
    names: Annotated[
        str | None,
        typer.Option(
            "--names",
            "-d",
            help="By commas, as name:option=value if need be. Default: all for texts.",
        ),
    ] = None,
    budgets: Annotated[
        str, typer.Option(help="Percent of the context that a method may read, by commas.")
    ] = "5,10,20",
    contexts: Annotated[
        str, typer.Option(help="Tokens to draft behind; empty for no drafts.")
    ] = "2000,4000,7500",
    prompt_file: Annotated[
        list[Path] | None,
        typer.Option("--prompt-file", "-f", help="Another text to draft along; may be repeated."),
    ] = None,
    tasks: Annotated[
        str, typer.Option(help="Lossy answers: ruler, shared; empty for none.")
    ] = "ruler,shared",
    task_context: Annotated[
        int, typer.Option(min=64, help="Tokens of the tasks' contexts.")
    ] = 2000,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N texts, and N tasks of each kind.")
    ] = None,
    depth: Annotated[int, typer.Option(min=1, max=64, help="Tokens of a draft.")] = 8,
    rounds: Annotated[int, typer.Option(min=2, help="Drafts along each text.")] = 3,
    seed: Annotated[int, typer.Option(help="Of texts drawn at temperature 1.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for methods.json, .md and .png; what it has is not done again."),
    ] = None,
    dtype: arguments.Dtype = "auto",
    activations: arguments.Activations = "auto",
    device: arguments.Device = "auto",
    threads: arguments.Threads = None,
    trust_remote_code: arguments.TrustRemoteCode = False,
    as_json: arguments.AsJson = False,
) -> None:
    """Measure KV methods side by side.

    Drafts kept, bytes read and kept, and lossy answers.

    The model reads each text once and writes how it goes on, greedily and at temperature 1. Each
    method then drafts along that, and stands for the model in answering questions. Ctrl-C keeps
    what was measured; with --out the same command goes on, with new methods, too.

    \b
    Examples:
      specdec bench methods --out methods
      specdec bench methods --names quest,snapkv --contexts 2000 --limit 1
      specdec bench methods --budgets 10 --tasks "" -f LICENSE --out mine
    """
    from specdec.bench.methods import files, texts
    from specdec.bench.methods.study import Study, check_names, methods_for_texts
    from specdec.bench.methods.tables import markdown
    from specdec.decoding.prompt_files import read_text

    chosen = methods_for_texts() if names is None else _parts(names)
    check_names(chosen)
    kinds = _kinds(tasks)
    shares = _numbers("--budgets", budgets, 100)
    before = None if out is None else files.read(out)
    engine = console.load_engine(model, dtype, device, trust_remote_code, activations=activations)
    if engine.tokenizer is None:
        raise InvalidArgument("this model has no tokenizer, and texts need one")
    room = engine.target.max_positions - rounds * (depth + 1)
    sizes = _numbers("--contexts", contexts, room) if contexts else []
    more = {file.stem: read_text(file) for file in prompt_file or ()}
    known = texts.prompts(engine.tokenizer, more, sizes) if sizes else {}
    study = Study(
        engine, chosen, shares, sizes, dict(list(known.items())[:limit]),
        _ruler(engine.tokenizer, task_context, limit) if "ruler" in kinds else [],
        _shared(engine.tokenizer, task_context)[:limit] if "shared" in kinds else [],
        depth, rounds, seed,
    )  # fmt: skip
    if before is not None:
        study.take_up(before)
    finished = True

    def save() -> None:
        if out is not None:
            files.write(study.document(), out)

    with progress_bar("Measuring", time_left=True) as progress:
        try:
            study.run(save, progress)
        except KeyboardInterrupt:
            finished = False
    document = study.document()
    written = [] if out is None else files.report(document, out)
    if as_json:
        console.print_json(document)
    else:
        console.out().print(markdown(document), markup=False)
        if written:
            said = "written: " + ", ".join(map(str, written))
            console.out().print(said, style="dim", markup=False)
    if not finished:
        raise typer.Exit(INTERRUPTED)


def _parts(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _kinds(text: str) -> list[str]:
    found = _parts(text)
    for kind in found:
        if kind not in ("ruler", "shared"):
            raise InvalidArgument(f"--tasks {kind!r}: give ruler, shared, or nothing")
    return found


def _numbers(option: str, text: str, most: int) -> list[int]:
    """Whole numbers from 1 to `most`."""
    try:
        numbers = [int(part) for part in _parts(text)]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1 or max(numbers) > most:
        raise InvalidArgument(f"{option} {text!r}: give whole numbers from 1 to {most}")
    return numbers


def _ruler(tokenizer: object, context: int, limit: int | None) -> Sequence:  # type: ignore[type-arg]
    from specdec.bench.ruler import TASKS, ruler

    return ruler(tokenizer, [context], TASKS[:limit])


def _shared(tokenizer: object, context: int) -> Sequence:  # type: ignore[type-arg]
    from specdec.bench.methods.shared_context import shared_contexts

    return shared_contexts(tokenizer, context)
