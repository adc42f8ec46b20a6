"""`specdec bench neighbours`: decoding beside processes that decode too."""

from __future__ import annotations

from typing import Annotated

import typer

from specdec.cli import arguments, console


def neighbours(
    model: arguments.Model = "demo",
    processes: Annotated[int, typer.Option(help="At once, this one's kind all.", min=2)] = 2,
    seconds: Annotated[float, typer.Option(help="Of each turn.", min=0.1)] = 5.0,
    repeats: Annotated[int, typer.Option(help="Turns of each; medians count.", min=1)] = 5,
    as_json: arguments.AsJson = False,
) -> None:
    """Compare the speed of plain decoding alone and beside others, in turns.

    An engine uses fewer threads while others want the CPUs; "all threads" does not. On a machine
    where nothing else runs, the two should be equally fast alone.

    \b
    Examples:
      specdec bench neighbours
      specdec bench neighbours --processes 4 --seconds 10 --json
    """
    from specdec.bench.neighbours import profile_neighbours

    found = profile_neighbours(model, processes, seconds, repeats)
    if as_json:
        console.print_json(found)
        return
    fixed = found["fixed"]
    lines = [
        f"alone: {found['alone']:.1f} tok/s; with all threads {fixed['alone']:.1f} "
        f"({found['loss']:+.1%} lost by choosing)",
        f"{processes} at once: {found['together']:.1f} tok/s each "
        f"({found['together_share']:.0%} of alone); with all threads {fixed['together']:.1f} "
        f"({fixed['together_share']:.0%})",
    ]
    console.out().print("\n".join(lines), markup=False)
