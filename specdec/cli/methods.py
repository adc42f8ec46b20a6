"""`specdec methods`: the KV methods, each with its paper, what it keeps and its options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from typing import Annotated, Any

import typer

from specdec import registry
from specdec.cli import arguments, console
from specdec.cli.listing import described
from specdec.errors import unknown_name
from specdec.registry import Named


def methods(
    family: Annotated[
        str | None, typer.Option(help="Only those of one family, such as 'codec'.")
    ] = None,
    as_json: arguments.AsJson = False,
) -> None:
    """List the KV methods of the literature by family.

    The paper, what is kept, and options that few others have.

    Each drafts losslessly under its name, as in `specdec generate --drafter quest`. Those that are
    views, too, can be what the model itself reads (`--view quest`), which changes the text.

    \b
    Examples:
      specdec methods
      specdec methods --family codec
      specdec methods --json
    """
    listed = _of_family(registry.kv_methods(), family)
    if as_json:
        console.print_json([_facts(name, entry) for name, entry in listed.items()])
        return
    from rich.table import Table

    common = _common()
    out = console.out()
    rows = Table("", "paper", "keeps", "options", box=None)
    for title, names in groupby(listed, lambda name: listed[name].load().family):
        rows.add_row(title, style="bold")
        for name in names:
            entry = listed[name]
            kind = entry.load()
            own = ", ".join(option for option in entry.options if option not in common)
            rows.add_row(f"  {name}", kind.paper, kind.keeps, own)
    out.print(rows)
    out.print(
        f"Most have {', '.join(common)}, too. `specdec list NAME` has all of one, with defaults.",
        style="dim", markup=False,
    )  # fmt: skip


def _of_family(known: Mapping[str, Named], family: str | None) -> dict[str, Named]:
    """Methods in the order of families, those that come first in the registry first."""
    families = list(dict.fromkeys(entry.load().family for entry in known.values()))
    if family is not None and family not in families:
        raise unknown_name("family", family, families)
    wanted = families if family is None else [family]
    return {n: x for one in wanted for n, x in known.items() if x.load().family == one}


def _facts(name: str, entry: Named) -> dict[str, Any]:
    kind = entry.load()
    return {
        "name": name,
        "family": kind.family,
        "paper": kind.paper,
        "keeps": kind.keeps,
        "summary": entry.summary,
        "drafter": name in registry.DRAFTERS,
        "view": name in registry.VIEWS,
        "options": described(entry),
    }


def _common() -> list[str]:
    """The options that more than half of the methods have."""
    known = registry.kv_methods()
    counts = Counter(option for entry in known.values() for option in entry.options)
    return [option for option, count in counts.items() if 2 * count > len(known)]
