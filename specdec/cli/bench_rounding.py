"""`specdec bench rounding`: what activations in 8 bits change of what a model says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from specdec.cli import arguments, console
from specdec.errors import InvalidArgument
from specdec.files import write_text
from specdec.progress import progress_bar


def rounding(
    model: arguments.Model = "demo",
    tokens: Annotated[int, typer.Option(min=2, help="Of the text that is looked at.")] = 4000,
    texts: Annotated[int, typer.Option(min=0, help="Greedy texts that are compared.")] = 16,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "--max-tokens", "-n", min=1)
    ] = 64,
    out: Annotated[Path | None, typer.Option(help="A file for the figures, as JSON.")] = None,
    threads: arguments.Threads = None,
    as_json: arguments.AsJson = False,
) -> None:
    """Compare activations in 8 bits with float32.

    Perplexity, the most likely next token and greedy texts of a quantised file, on
    the Python manual.

    \b
    Examples:
      specdec bench rounding
      specdec bench rounding -m model.gguf --tokens 1000 --texts 4 --json
    """
    from specdec.bench.rounding import profile_rounding
    from specdec.bench.workloads import manual

    rounded, exact = (
        console.load_engine(model, "auto", "cpu", False, activations=kind)
        for kind in ("auto", "float32")
    )
    if rounded.tokenizer is None:
        raise InvalidArgument("this model has no tokenizer, and the text needs one")
    ids = rounded.tokenizer(manual())["input_ids"]
    with progress_bar("Measuring", time_left=True) as progress:
        found = profile_rounding(rounded, exact, ids, tokens, texts, max_new_tokens, progress)
    if out is not None:
        write_text(out, json.dumps(found, indent=1))
    if as_json:
        console.print_json(found)
        return
    perplexity, parted = found["perplexity"], found["tokens_until_parted"]
    lines = [
        f"perplexity of {found['tokens']} tokens: {perplexity['float32']:.2f} with activations in "
        f"float32, {perplexity['int8']:.2f} in 8 bits",
        f"most likely next token: the same at {found['same_argmax']:.1%} of the places; "
        f"KL divergence {found['divergence']:.4f} nats",
        f"greedy texts of {found['new_tokens']} tokens: {found['texts_equal']} of "
        f"{found['texts']} the same to the end"
        + ("" if parted is None else f", the others for {parted:.0f} tokens on average"),
    ]
    console.out().print("\n".join(lines), markup=False)
