"""`specdec bench kernels`: correctness and memory bandwidth of every op on this device."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from specdec.cli import arguments, console
from specdec.errors import InvalidArgument
from specdec.files import write_text


def kernels(
    device: Annotated[str, typer.Option(help="cuda, or cpu: Numba beside plain PyTorch.")] = "cuda",
    shapes: Annotated[
        str, typer.Option(help="Heads of which models.")
    ] = "llama-3.1-8b,smollm2-135m",
    contexts: Annotated[
        str, typer.Option(help="Tokens of context, as in 8192,65536.")
    ] = "8192,16384,32768,65536,131072",
    nodes: Annotated[str, typer.Option(help="Nodes of a pass, as in 1,16.")] = "1,8,16,64",
    repeats: arguments.Turns = 20,
    out: arguments.OutFile = None,
    as_json: arguments.AsJson = False,
) -> None:
    """Check every op's kernel, and time attention.

    Against plain PyTorch, and against a copy within the device.

    Ends with status 1 if a kernel is wrong. Goals are printed as met or missed.

    \b
    Examples:
      specdec bench kernels --out kernels.json
      specdec bench kernels --device cpu --shapes smollm2-135m --contexts 2000
    """
    from specdec.bench.kernels.profile import profile_kernels

    names = [name.strip() for name in shapes.split(",") if name.strip()]
    document = profile_kernels(
        device, names, _counts("--contexts", contexts), _counts("--nodes", nodes), repeats
    )
    if out is not None:
        write_text(out, json.dumps(document, indent=1) + "\n")
    if as_json:
        console.print_json(document)
    else:
        _print(document)
    if not all(row["ok"] for row in document["checks"]):
        raise typer.Exit(1)


def _counts(option: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InvalidArgument(f"{option} {text!r}: give numbers, as in 1,16")
    return [int(part) for part in parts]


def _print(document: dict[str, Any]) -> None:
    out = console.out()
    for row in document["checks"]:
        state = "right" if row["ok"] else "WRONG"
        line = f"{state}  {row['op']}: error {row['error']:.1e}, plain {row['plain_error']:.1e}"
        out.print(line, style=None if row["ok"] else "red", markup=False)
    table = Table(box=None, header_style="bold")
    for place, column in enumerate(("shape", "context", "nodes", "who", "ms", "GB/s", "of a copy")):
        table.add_column(column, justify="left" if place in (0, 3) else "right", no_wrap=True)
    for row in document["timings"]:
        cells = [row["shape"], str(row["context"]), str(row["nodes"]), row["name"]]
        if "error" in row:
            cells += [row["error"][:40], "", ""]
        else:
            cells += [f"{row['ms']:.3f}", f"{row['gb_s']:.1f}", f"{row['share']:.0%}"]
        table.add_row(*cells)
    out.width = max(out.width, 120)
    out.print(table)
    gpu, rate = document["machine"]["gpu"], document["copy_gb_s"]
    where = gpu if document["device"] == "cuda" else document["machine"]["cpu"]
    out.print(f"{where}, {document['dtype']}; a copy runs at {rate:.1f} GB/s", markup=False)
    for row in document["goals"]:
        bound = f"at least {row['least']}" if "least" in row else f"at most {row['most']}"
        if row["met"] is None:
            state = "not measured"
        else:
            state = f"{'met' if row['met'] else 'missed'} ({row['measured']:.2f})"
        out.print(f"goal: {row['goal']}, {bound}: {state}", markup=False)
