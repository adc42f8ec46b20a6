"""`specdec list`: what can be named."""

from __future__ import annotations

from specdec import registry
from specdec.cli import arguments, console

_TABLES = {
    "drafters": registry.DRAFTERS,
    "views": registry.VIEWS,
    "acceptance": registry.ACCEPTANCE,
}


def listing(as_json: arguments.AsJson = False) -> None:
    """List drafters, views and acceptance rules, each with what it is.

    \b
    Examples:
      specdec list
      specdec list --json
    """
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
        for name, summary in table.items():
            rows.add_row(name, summary, style=None)
        out.print(rows)
    out.print("Drafters combine as in ngram+model.", style="dim")
