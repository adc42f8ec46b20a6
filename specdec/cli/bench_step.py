"""`specdec bench step`: where the milliseconds of a pass go."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from specdec.cli import arguments, console
from specdec.errors import InvalidArgument, unknown_name
from specdec.files import write_text
from specdec.registry import VIEWS


def step(
    model: arguments.Model = "demo",
    random: Annotated[
        str | None,
        typer.Option(help="A random GGUF in place of a model, as in llama-1b:q4_k_m."),
    ] = None,
    contexts: Annotated[str, typer.Option(help="Tokens of context, as in 500,4000.")] = "500,4000",
    widths: Annotated[str, typer.Option(help="Nodes of a pass, as in 1,4,8.")] = "1,4,8,16",
    prompts: Annotated[str, typer.Option(help="Lengths of prompts to read, as in 512,2048.")] = "",
    views: Annotated[str, typer.Option(help="Views to time a draft pass of.")] = "",
    budget: Annotated[int, typer.Option(min=1, help="Tokens that those views read.")] = 512,
    baselines: Annotated[
        str, typer.Option(help="Peers: hf, llama.cpp, llama.cpp-f32, ik_llama.cpp.")
    ] = "",
    repeats: arguments.Turns = 11,
    device: Annotated[str, typer.Option(help="cpu, or cuda: by graphs and without.")] = "cpu",
    threads: arguments.Threads = None,
    out: arguments.OutFile = None,
    dtype: arguments.Dtype = "auto",
    activations: arguments.Activations = "auto",
    weights: arguments.Weights = "auto",
    as_json: arguments.AsJson = False,
) -> None:
    """Time passes of several widths, on a CPU op by op.

    Beside it stands what the memory bandwidth allows.

    \b
    Examples:
      specdec bench step
      specdec bench step --device cuda --contexts 4000 --widths 1,4,16 --json
      specdec bench step --contexts 7500 --widths 1 --views quest,streaming
      specdec bench step --dtype float32 --widths 1,4,8 --baselines hf,llama.cpp
      specdec bench step --random llama-1b:q4_k_m --baselines llama.cpp
    """
    from specdec.bench.roster import steppers
    from specdec.bench.step_profile import profile_steps
    from specdec.bench.workloads import manual

    names = [name for name in views.split(",") if name]
    saving = [name for name, x in VIEWS.items() if name != "full" and not x.needs_documents]
    for name in names:
        if name not in saving:
            raise unknown_name("views", name, saving)
    if random is not None:
        from specdec.bench.random_gguf import random_gguf

        model = str(random_gguf(random))
    counts = _counts("--contexts", contexts), _counts("--widths", widths)
    lengths = _counts("--prompts", prompts) if prompts else []
    engine = console.load_engine(
        model, dtype, device, False, activations=activations, weights=weights
    )
    if engine.tokenizer is None:
        raise InvalidArgument("this model has no tokenizer, and the text needs one")
    tokens = engine.tokenizer(manual())["input_ids"]
    peers = [name for name in baselines.split(",") if name]
    timed = steppers(engine, model, peers, max([*counts[0], *lengths]) + 2 * repeats + 1)
    document = profile_steps(engine, tokens, *counts, names, budget, repeats, timed, lengths)
    if out is not None:
        write_text(out, json.dumps(document, indent=1))
    if as_json:
        console.print_json(document)
    else:
        _print(document)


def _counts(option: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InvalidArgument(f"{option} {text!r}: give numbers, as in 500,4000")
    return [int(part) for part in parts]


def _print(document: dict[str, Any]) -> None:
    passes = document["passes"]
    plain = {p["context"]: p["total"] for p in passes if (p["nodes"], p["view"]) == (1, "full")}
    table = Table(box=None, header_style="bold")
    for column in ("context", "nodes", "view", "ms", "of plain", "floor"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("of which", overflow="fold")
    for entry in passes:
        share = entry["total"] / plain[entry["context"]] if plain else None
        ours = "floor" in entry
        table.add_row(
            str(entry["context"]),
            str(entry["nodes"]),
            entry["view"],
            f"{entry['total']:.1f}",
            "" if share is None else f"{share:.2f}",
            f"{entry['floor']:.1f}" if ours else "",
            _parts(entry) if ours else "",
        )
    console.out().print(table)
    _print_prompts(document["prompts"])
    rate = f"{document['bandwidth']:.1f} GB/s"
    if document["products"]:
        rate += f"; whole numbers by {document['products']}"
    console.out().print(
        f"{document['weights']}; floor: reading them and the keys at {rate}", markup=False
    )


def _print_prompts(prompts: list[dict[str, Any]]) -> None:
    if not prompts:
        return
    table = Table(box=None, header_style="bold")
    for column in ("prompt", "read by", "ms", "tokens/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in prompts:
        ms, tokens = entry["total"], entry["tokens"]
        table.add_row(str(tokens), entry["who"], f"{ms:.0f}", f"{1e3 * tokens / ms:.0f}")
    console.out().print(table)


def _parts(entry: dict[str, Any]) -> str:
    """What the pass spends in each call, and in each op where a call runs several layers."""
    calls, ops = entry["calls"], entry["ops"]
    whole = _listed(calls)
    return f"{whole}; layer by layer: {_listed(ops)}" if ops and set(ops) != set(calls) else whole


def _listed(parts: dict[str, float]) -> str:
    """The milliseconds of each part, the longest first, down to 0.1."""
    longest = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name.replace('_', ' ')} {ms:.1f}" for name, ms in longest if ms >= 0.05)
