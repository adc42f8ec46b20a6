"""`specdec bench neighbours`: decoding beside processes that decode too."""

from __future__ import annotations

from typing import Annotated

import typer

from specdec.cli import arguments, console


def neighbours(
    model: arguments.Model = "demo",
    processes: Annotated[
        int, typer.Option(help="At once, 2 up to so many, of one engine each.", min=2)
    ] = 2,
    seconds: Annotated[float, typer.Option(help="Of each turn.", min=0.1)] = 5.0,
    repeats: Annotated[int, typer.Option(help="Turns of each; medians count.", min=1)] = 5,
    activations: arguments.Activations = "auto",
    baselines: Annotated[
        str, typer.Option(help="Peers, as in hf,llama.cpp: see `specdec bench run`.")
    ] = "",
    as_json: arguments.AsJson = False,
) -> None:
    """Compare plain decoding alone and beside others.

    An engine uses fewer threads while others want the CPUs; "all threads" does not. On a machine
    where nothing else runs, the two should be equally fast alone.

    \b
    Examples:
      specdec bench neighbours
      specdec bench neighbours --processes 3 --baselines hf,llama.cpp --json
    """
    from specdec.bench.neighbours import profile_neighbours

    peers = [name for name in baselines.split(",") if name]
    found = profile_neighbours(model, processes, seconds, repeats, activations, peers)
    if as_json:
        console.print_json(found)
        return
    lines = []
    for name, rows in found["engines"].items():
        beside = ", ".join(
            f"{row['processes']} at once {row['speed']:.1f} each ({row['share']:.0%})"
            for row in rows[1:]
        )
        lines.append(f"{name}: alone {rows[0]['speed']:.1f} tok/s; {beside}")
    lines.append(f"{found['loss']:+.1%} of the speed alone is lost by choosing threads")
    console.out().print("\n".join(lines), markup=False)
