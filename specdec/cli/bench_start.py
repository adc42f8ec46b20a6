"""`specdec bench start`: seconds and memory from nothing to the first token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from specdec.cli import arguments, console
from specdec.files import write_text


def start(
    model: arguments.Model = "demo",
    random: Annotated[
        str | None,
        typer.Option(help="Random GGUFs in place of a model, as in llama-1b:q4_k_m,llama-8b:q8_0."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Starts behind the first.")] = 2,
    out: arguments.OutFile = None,
    dtype: arguments.Dtype = "auto",
    activations: arguments.Activations = "auto",
    weights: arguments.Weights = "auto",
    as_json: arguments.AsJson = False,
) -> None:
    """Time the start in fresh processes, and its memory.

    Seconds to the first token, and the most memory on the way.

    The first start compiles the kernels and has an empty cache folder; memory counts all that is
    resident, mapped pages of the file included.

    \b
    Examples:
      specdec bench start
      specdec bench start --random llama-1b:q4_k_m --repeats 3 --out start.json
    """
    from specdec.bench.random_gguf import random_gguf
    from specdec.bench.start import profile_starts
    from specdec.loading.loader import gguf_of

    names = [model]
    if random is not None:
        names = [str(random_gguf(name)) for name in random.split(",")]
    else:
        found = gguf_of(model)
        names = [str(found[0] if found else Path(model).expanduser())]
    settings = {"device": "cpu", "dtype": dtype, "activations": activations, "weights": weights}
    documents = [profile_starts(name, repeats, **settings) for name in names]
    if out is not None:
        write_text(out, json.dumps({"models": documents}, indent=1) + "\n")
    if as_json:
        console.print_json({"models": documents})
        return
    for document in documents:
        _print(document)


def _print(document: dict[str, Any]) -> None:
    table = Table(box=None, header_style="bold")
    columns = ("start", "whole s", "imports", "load", "token", "ms a step", "peak GB", "at the end")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for number, entry in enumerate(document["starts"], 1):
        seconds = [f"{entry[name]:.2f}" for name in ("whole", "imports", "load", "token")]
        memory = [f"{entry[name] / 1e9:.2f}" for name in ("peak", "resident")]
        table.add_row(str(number), *seconds, f"{1e3 * entry['step']:.0f}", *memory)
    console.out().print(table)
    console.out().print(
        f"{document['model']}: {document['file'] / 1e9:.2f} GB; 1.3 times that and 1 GB are "
        f"{document['goal'] / 1e9:.2f} GB; {document['cached'] / 1e6:.1f} MB in the cache folder",
        markup=False,
    )
