"""`specdec bench offload`: decoding with the KV behind a link."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from specdec.cli import arguments, console
from specdec.decoding.prompt_files import read_text
from specdec.errors import InvalidArgument
from specdec.files import write_text


def offload(
    model: arguments.Model = "demo",
    context: Annotated[int, typer.Option(help="Tokens of context.", min=1)] = 7500,
    rates: Annotated[
        str, typer.Option(help="GB/s that the link is slowed to, as in 3,1; 0: as fast as it is.")
    ] = "0,1",
    tier: Annotated[str, typer.Option(help="Where older KV lies: host or disk.")] = "disk",
    drafters: Annotated[str, typer.Option(help="As in ngram,triforce.")] = "ngram,triforce,auto",
    max_new_tokens: Annotated[
        int,
        typer.Option("--max-new-tokens", "-n", help="Of each text; 0: passes only.", min=0),
    ] = 64,
    repeats: Annotated[int, typer.Option(help="Turns of the passes; medians count.", min=1)] = 3,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompt-file", "-f", help="Default: the Python manual.")
    ] = None,
    random_weights: Annotated[
        bool, typer.Option(help="Time passes of a model of this shape, with nothing downloaded.")
    ] = False,
    gpu_memory: Annotated[
        str | None, typer.Option(help="Let the process have no more of the GPU, as in 24GiB.")
    ] = None,
    dtype: arguments.Dtype = "auto",
    activations: arguments.Activations = "auto",
    device: arguments.Device = "auto",
    threads: arguments.Threads = None,
    out: Annotated[Path | None, typer.Option(help="File to write the JSON document to.")] = None,
    as_json: arguments.AsJson = False,
) -> None:
    """Time passes by width, and texts by drafter, with older KV in host memory or on disk.

    \b
    Examples:
      specdec bench offload
      specdec bench offload --rates 25,12,3 --tier host --device cuda --out offload.json
      specdec bench offload -m meta-llama/Llama-3.1-8B --random-weights --context 131072 --tier host
    """
    from specdec.bench.offload import profile_offload, random_engine
    from specdec.bench.workloads import manual

    if tier not in ("host", "disk"):
        raise InvalidArgument(f"--tier {tier!r}: give host or disk")
    links = _rates(rates)
    if gpu_memory is not None:
        _bound(gpu_memory)
    if random_weights:
        if activations != "auto":
            raise InvalidArgument(
                "--activations is for quantised files, and --random-weights makes none: leave out "
                "one of them"
            )
        engine = random_engine(model, dtype, device)
        tokens, max_new_tokens = [i % engine.target.vocab_size for i in range(context)], 0
    else:
        engine = console.load_engine(model, dtype, device, False, activations=activations)
        if engine.tokenizer is None:
            raise InvalidArgument("this model has no tokenizer, and the text needs one")
        text = manual() if prompt_file is None else read_text(prompt_file)
        tokens = engine.tokenizer(text)["input_ids"]
    document = profile_offload(
        engine, tokens, context, links, [name for name in drafters.split(",") if name],
        tier, max_new_tokens, repeats,
    )  # fmt: skip
    if out is not None:
        write_text(out, json.dumps(document, indent=1))
    if as_json:
        console.print_json(document)
    else:
        _print(document)


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
    cells = document["cells"]
    names = [_name(cell) for cell in cells]
    passes = Table("nodes of a pass", *names, box=None, header_style="bold")
    for width in cells[0]["passes"]:
        passes.add_row(width, *(f"{1e3 * cell['passes'][width]:.0f} ms" for cell in cells))
    texts = Table("drafter", *names, box=None, header_style="bold")
    for drafter in cells[0]["texts"]:
        texts.add_row("plain" if drafter == "none" else drafter,
                      *(_text(cell["texts"], drafter) for cell in cells))  # fmt: skip
    out = console.out()
    out.print(passes)
    out.print()
    if cells[0]["texts"]:
        out.print(texts)
        out.print("tokens/s (times plain of the same column, tokens a pass)", markup=False)
    out.print(f"{document['model']}, {document['context']:,} tokens of context", markup=False)


def _name(cell: dict[str, Any]) -> str:
    if cell["tier"] == "device":
        return "device"
    reached = f"{cell['link'] / 1e9:.1f} GB/s" if cell["link"] else ""
    return f"{cell['tier']} {reached}".strip()


def _text(texts: dict[str, Any], drafter: str) -> str:
    one, plain = texts[drafter], texts["none"]
    text = f"{one['tokens_per_s']:.1f}"
    if drafter != "none":
        text += f" ({one['tokens_per_s'] / plain['tokens_per_s']:.2f}x"
        text += f", {one['acceptance_length']:.2f})"
    return text + ("" if one["equal"] else " OTHER TEXT")
