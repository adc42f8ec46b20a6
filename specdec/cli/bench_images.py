"""`specdec bench images`: what SpecVLM drafts with images made small, and with whole ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from specdec.cli import arguments, console
from specdec.files import write_text
from specdec.progress import progress_bar


def images(
    model: arguments.Model = "demo-vision",
    checkpoint: Annotated[
        str | None, typer.Option(help="Of the drafter; default: the one that ships.")
    ] = None,
    images: Annotated[str, typer.Option(help="Images of a prompt, as in 1,4,16.")] = "1,4,16",
    count: Annotated[int, typer.Option(min=1, help="Prompts of each number of images.")] = 8,
    max_new_tokens: arguments.MaxNewTokens = 32,
    image_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Entries for an image at most; what it was trained with."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for result.json and result.md.")] = None,
    dtype: arguments.Dtype = "auto",
    activations: arguments.Activations = "auto",
    threads: arguments.Threads = None,
    as_json: arguments.AsJson = False,
) -> None:
    """Compare SpecVLM's branches and its gate.

    The same block that reads whole images stands beside them.
    Acceptance length (tokens a pass of the target) with chains of 4 on pages to be read, and bytes
    that are kept for an image. Nothing is timed.

    \b
    Examples:
      specdec bench images
      specdec bench images --images 1,4 --count 4 --checkpoint ./my-drafter --json
    """
    from specdec.bench.image_branches import measure, table

    counts = arguments.whole_numbers("--images", images)
    engine = console.load_engine(model, dtype, "cpu", False, activations=activations)
    with progress_bar("Measuring", time_left=True) as progress:
        found = measure(engine, checkpoint, counts, count, max_new_tokens, image_tokens, progress)
    if out is not None:
        write_text(out / "result.json", json.dumps(found, indent=1) + "\n")
        write_text(out / "result.md", table(found))
    if as_json:
        console.print_json(found)
    else:
        console.out().print(table(found), markup=False, soft_wrap=True)
