"""`specdec bench offload`: decoding with the KV behind a link."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from specdec.cli import arguments, console
from specdec.decoding.prompt_files import read_text
from specdec.errors import InvalidArgument
from specdec.files import write_text
from specdec.progress import progress_bar

if TYPE_CHECKING:
    from specdec.engine import Engine

INTERRUPTED = 130


def offload(
    model: arguments.Model = "demo",
    context: Annotated[int, typer.Option(help="Tokens of context.", min=1)] = 7500,
    rates: Annotated[
        str, typer.Option(help="GB/s that the link is slowed to, as in 3,1; 0: as fast as it is.")
    ] = "0,1",
    tier: Annotated[str, typer.Option(help="Where older KV lies: host or disk.")] = "disk",
    near: Annotated[
        bool, typer.Option("--near/--no-near", help="Also with everything on the device.")
    ] = True,
    drafters: Annotated[
        str,
        typer.Option(
            "--drafters", "-d", help="By commas, with options of one as in snapkv:budget=1024."
        ),
    ] = "ngram,triforce,auto",
    max_new_tokens: Annotated[
        int,
        typer.Option("--max-new-tokens", "-n", help="Of each text; 0: passes only.", min=0),
    ] = 64,
    repeats: arguments.Turns = 3,
    texts: Annotated[
        str | None, typer.Option(help="Of code, prose. Default: prose, unless -f is given.")
    ] = None,
    prompt_file: Annotated[
        list[Path] | None,
        typer.Option("--prompt-file", "-f", help="A text to go on from; may be repeated."),
    ] = None,
    saved_prompts: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps what was read of the prompts for the next run."),
    ] = None,
    random_weights: Annotated[
        bool, typer.Option(help="Time passes of a model of this shape, with nothing downloaded.")
    ] = False,
    gpu_memory: Annotated[
        str | None, typer.Option(help="Let the process have no more of the GPU, as in 24GiB.")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds after which nothing more begins.")
    ] = None,
    dtype: arguments.Dtype = "auto",
    activations: arguments.Activations = "auto",
    device: arguments.Device = "auto",
    threads: arguments.Threads = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON document; what it has is not measured again.")
    ] = None,
    as_json: arguments.AsJson = False,
) -> None:
    """Time passes and texts with older KV off the device.

    Passes by width, texts by drafter; KV in host memory or on disk.

    Plain decoding always takes part. Ctrl-C and --time-limit keep what was measured; with --out the
    same command goes on.

    \b
    Examples:
      specdec bench offload
      specdec bench offload --rates 1 --no-near -d snapkv,auto --texts code,prose
      specdec bench offload --rates 25,12,3 --tier host --device cuda --json
      specdec bench offload -m ./my-model --random-weights --context 131072
    """
    from specdec.bench.offload.random_model import random_engine
    from specdec.bench.offload.study import Study

    if tier not in ("host", "disk"):
        raise InvalidArgument(f"--tier {tier!r}: give host or disk")
    places = [*([("device", None)] if near else []), *((tier, rate) for rate in _rates(rates))]
    if gpu_memory is not None:
        _bound(gpu_memory)
    before = None if out is None or not out.exists() else _read(out)
    if random_weights:
        if activations != "auto":
            raise InvalidArgument(
                "--activations is for quantised files, and --random-weights makes none: leave out "
                "one of them"
            )
        engine = random_engine(model, dtype, device)
        prompts = {"numbers": [i % engine.target.vocab_size for i in range(context)]}
        max_new_tokens = 0
    else:
        from specdec.placement import for_far_keys

        kind = for_far_keys(activations)
        engine = console.load_engine(model, dtype, device, False, activations=kind)
        prompts = _prompts(engine, texts, prompt_file or ())
    everyone = [name for name in drafters.split(",") if name]
    kept = nullcontext(saved_prompts) if saved_prompts else TemporaryDirectory()
    with kept as folder, progress_bar("Measuring", time_left=True) as progress:
        study = Study(engine, prompts, context, places, everyone, Path(folder), max_new_tokens,
                      repeats)  # fmt: skip
        if before is not None:
            study.take_up(before)

        def save() -> None:
            if out is not None:
                write_text(out, json.dumps(study.document(), indent=1))

        try:
            finished = study.run(save, progress, time_limit)
        except KeyboardInterrupt:
            finished = False
    if as_json:
        console.print_json(study.document())
    else:
        _print(study.document())
    if not finished:
        raise typer.Exit(INTERRUPTED)


def _prompts(engine: Engine, texts: str | None, files: Sequence[Path]) -> dict[str, list[int]]:
    """Tokens by name."""
    from specdec.bench.workloads import manual, source

    if engine.tokenizer is None:
        raise InvalidArgument("this model has no tokenizer, and the text needs one")
    known = {"code": source, "prose": manual}
    named = texts.split(",") if texts is not None else [] if files else ["prose"]
    for name in named:
        if name not in known:
            raise InvalidArgument(f"--texts {name!r}: give {', '.join(known)}, or a file by -f")
    found = {name: known[name]() for name in named} | {file.stem: read_text(file) for file in files}
    return {name: list(engine.tokenizer(text)["input_ids"]) for name, text in found.items()}


def _read(out: Path) -> dict[str, Any]:
    """The document of an earlier run."""
    try:
        document = json.loads(out.read_text("utf-8"))
        assert isinstance(document["cells"], list)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise InvalidArgument(f"{out} is no result of `specdec bench offload`") from error
    return dict(document)


def _bound(gpu_memory: str) -> None:
    """Hold the process to a part of its GPU."""
    import torch

    from specdec.offload.memory import parse_bytes

    if not torch.cuda.is_available():
        raise InvalidArgument(f"--gpu-memory {gpu_memory}: PyTorch sees no GPU here; leave it out")
    whole = torch.cuda.get_device_properties(0).total_memory
    part = parse_bytes(gpu_memory, "--gpu-memory") / whole
    torch.cuda.set_per_process_memory_fraction(min(1.0, part))


def _rates(text: str) -> list[float | None]:
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or min(found) < 0:
        raise InvalidArgument(f"--rates {text!r}: give GB/s, as in 25,12,3; 0 is unbounded")
    return [rate * 1e9 or None for rate in found]


def _print(document: dict[str, Any]) -> None:
    from specdec.bench.offload.tables import passes_table, texts_table

    out = console.out()
    for rows in (passes_table(document), *texts_table(document)):
        head, *body = rows
        table = Table(*head, box=None, header_style="bold")
        for row in body:
            table.add_row(*row)
        out.print(table)
        out.print()
    if any(cell["texts"] for cell in document["cells"]):
        out.print("tokens/s (times plain of the same column, tokens a pass)", markup=False)
    out.print(f"{document['model']}, {document['context']:,} tokens of context", markup=False)
