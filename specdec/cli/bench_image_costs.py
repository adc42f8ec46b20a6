"""`specdec bench image-costs`: what images cost at the shapes of known models."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from specdec.cli import arguments, console
from specdec.errors import unknown_name
from specdec.files import write_text

_DTYPES = ("float32", "bfloat16")


def image_costs(
    random: Annotated[
        str, typer.Option(help="A shape: smolvlm-256m or qwen2.5-vl-3b, with random weights.")
    ] = "smolvlm-256m",
    layers: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many of its text layers."),
    ] = None,
    numbers: Annotated[
        str, typer.Option("--images", help="Images of a prompt, as in 1,4.")
    ] = "1,4",
    widths: Annotated[str, typer.Option(help="Nodes of a pass, as in 1,8.")] = "1,8",
    repeats: arguments.Turns = 3,
    out: arguments.OutFile = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    as_json: arguments.AsJson = False,
) -> None:
    """Time what images cost at the shapes of real models.

    The tower, the same images again, the reading of the prompt, and passes behind it.

    \b
    Examples:
      specdec bench image-costs
      specdec bench image-costs --random qwen2.5-vl-3b --layers 9 --images 1
    """
    import torch

    from specdec.bench.image_costs import profile_images

    if dtype not in _DTYPES:
        raise unknown_name("--dtype", dtype, _DTYPES)
    found = profile_images(
        random, layers, getattr(torch, dtype), arguments.whole_numbers("--images", numbers),
        arguments.whole_numbers("--widths", widths), repeats,
    )  # fmt: skip
    if out is not None:
        write_text(out, json.dumps(found, indent=1) + "\n")
    if as_json:
        console.print_json(found)
        return
    for line in lines(found):
        console.out().print(line, markup=False, highlight=False)


def lines(found: dict[str, Any]) -> list[str]:
    """The document for a terminal."""
    made = [
        f"{found['model']}, random weights, {found['layers']} of {found['of_layers']} text layers, "
        f"{found['dtype']}, {found['machine']['cpu']}, {found['machine']['cores']} threads; "
        f"medians of {found['repeats']}, ms"
    ]
    for cell in found["cells"]:
        passes = ", ".join(f"{x['total']:.0f} for {x['nodes']}" for x in cell["passes"])
        made.append(
            f"{cell['images']} images, {cell['tokens']} tokens: tower {cell['tower']:.0f} (seen "
            f"before {cell['again']:.0f}), prompt {cell['read']:.0f}, passes by nodes {passes}"
        )
    return made
