"""`specdec bench shared`: prompts that begin alike, read and kept once, or each by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from specdec.cli import arguments, console
from specdec.errors import InvalidArgument
from specdec.progress import progress_bar


def shared(
    model: arguments.Model = "demo",
    context: Annotated[int, typer.Option(min=1, help="Tokens that all prompts begin with.")] = 1500,
    rows: Annotated[str, typer.Option(help="Prompts at once, as in 1,8,16.")] = "1,8,16",
    drafter: Annotated[str, typer.Option("--drafter", "-d", help="Who drafts.")] = "none",
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "--max-tokens", "-n", min=2)
    ] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each; medians count.")] = 1,
    out: Annotated[Path | None, typer.Option(help="A file for the figures, as JSON.")] = None,
    dtype: arguments.Dtype = "auto",
    activations: arguments.Activations = "auto",
    device: arguments.Device = "auto",
    threads: arguments.Threads = None,
    trust_remote_code: arguments.TrustRemoteCode = False,
    as_json: arguments.AsJson = False,
) -> None:
    """Compare prompts that begin alike with the same apart.

    Reading, decoding and the bytes of keys and values, by numbers of rows. The texts are the same.

    \b
    Examples:
      specdec bench shared
      specdec bench shared --context 4000 --rows 8 -d ngram --json
    """
    from specdec.bench.shared import profile_shared

    try:
        counts = [int(part) for part in rows.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise InvalidArgument(f"--rows {rows!r}: give whole numbers from 1 on, as in 1,8,16")
    engine = console.load_engine(model, dtype, device, trust_remote_code, activations=activations)
    with progress_bar("Measuring", time_left=True) as progress:
        found = profile_shared(engine, context, counts, drafter, max_new_tokens, repeats, progress)
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    if as_json:
        console.print_json(found)
        return
    lines = []
    for cell in found["cells"]:
        one, two = cell["shared"], cell["apart"]
        lines.append(
            f"{cell['rows']} rows: read in {one['read_s']:.2f} s (apart {two['read_s']:.2f}), "
            f"{one['tokens_per_s']:.1f} tok/s ({two['tokens_per_s']:.1f}), KV "
            f"{one['kv_bytes'] / 1e6:.0f} MB ({two['kv_bytes'] / 1e6:.0f})"
            f"{'' if cell['texts_equal'] else '; texts part at near ties'}"
        )
    console.out().print("\n".join(lines), markup=False)
