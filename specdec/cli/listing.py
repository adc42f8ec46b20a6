"""`specdec list`: what can be named, and what it can be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from specdec import registry
from specdec.cli import arguments, console
from specdec.errors import unknown_name
from specdec.registry import Entry, Named

_TABLES: Mapping[str, Mapping[str, Entry]] = {
    "drafters": registry.DRAFTERS,
    "views": registry.VIEWS,
    "acceptance": registry.ACCEPTANCE,
}


def listing(
    name: Annotated[
        str | None, typer.Argument(help="A drafter or view: list its options instead.")
    ] = None,
    as_json: arguments.AsJson = False,
) -> None:
    """List drafters, views and acceptance rules.

    Of one that is named, its options.

    \b
    Examples:
      specdec list
      specdec list snapkv
      specdec list --json
    """
    if name is not None:
        _list_options(name, as_json)
        return
    tables = {
        title: {name: entry.summary for name, entry in table.items()}
        for title, table in _TABLES.items()
    }
    if as_json:
        console.print_json(tables)
        return
    from rich.table import Table

    out = console.out()
    for title, table in tables.items():
        rows = Table(title=title, title_justify="left", box=None, show_header=False)
        for one, summary in table.items():
            rows.add_row(one, summary, style=None)
        out.print(rows)
    out.print(
        "Drafters combine as in ngram+model. `specdec list NAME` has the options of one.",
        style="dim", markup=False,
    )  # fmt: skip


def _list_options(name: str, as_json: bool) -> None:
    entry = registry.DRAFTERS.get(name) or registry.VIEWS.get(name)
    if entry is None:
        raise unknown_name("drafter or view", name, {**registry.DRAFTERS, **registry.VIEWS})
    options = described(entry)
    if as_json:
        console.print_json({"name": name, "summary": entry.summary, "options": options})
        return
    from rich.table import Table

    out = console.out()
    out.print(f"{name}: {entry.summary}", markup=False)
    rows = Table(box=None, show_header=False)
    for option, facts in options.items():
        default = "" if facts["default"] is None else f" Default: {facts['default']}."
        rows.add_row(option, facts["values"], facts["help"] + default)
    out.print(rows if options else "It has no options.")


def described(entry: Named) -> dict[str, Any]:
    """The options of a method by name: what values they take, the default, and help."""
    return {
        name: {
            "values": option.kind.metavar,
            "default": option.shown or None,
            "help": option.help,
        }
        for name, option in entry.options.items()
    }
