"""`specdec cache`: what the cache folder holds, and clearing it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specdec.cli import arguments, console
from specdec.errors import InvalidArgument

if TYPE_CHECKING:
    from specdec.cached import Entry

_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def listing(as_json: arguments.AsJson = False) -> None:
    """List what the cache folder holds, with sizes and ages.

    SPECDEC_CACHE names another folder.

    \b
    Examples:
      specdec cache list
      specdec cache list --json
    """
    from specdec import cached
    from specdec.cachedir import cache_root

    found = cached.entries()
    if as_json:
        console.print_json(_document(found))
        return
    out = console.out()
    width = max((len(entry.name) for entry in found), default=0)
    story = ""
    for entry in found:
        if entry.story != story:
            story = entry.story
            out.print(f"{entry.kind}: {story}", style="bold", markup=False)
        line = f"  {entry.name:{width}}  {_size(entry.nbytes):>7}  {_age(entry.age)} old"
        out.print(line, markup=False)
    total = sum(entry.nbytes for entry in found)
    out.print(f"{_size(total)} in {cache_root()}", style="dim", markup=False)


def clear(
    names: Annotated[
        list[str] | None, typer.Argument(help="Kinds or entries, as `specdec cache list` has them.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Clear all that is listed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: arguments.AsJson = False,
) -> None:
    """Delete entries of the cache folder.

    Files there that are not ours are left alone.

    \b
    Examples:
      specdec cache clear converted
      specdec cache clear demo costs --yes
      specdec cache clear --all
    """
    from specdec import cached

    found = cached.need(names or [], everything)
    if found and not yes:
        if as_json or not sys.stdin.isatty():
            raise InvalidArgument("nobody can be asked here: give --yes to delete without asking")
        for entry in found:
            console.err().print(f"{entry.name}  {_size(entry.nbytes)}", markup=False)
        size = _size(sum(entry.nbytes for entry in found))
        if not typer.confirm(f"Delete {len(found)} entries, {size}?", err=True):
            raise typer.Exit(1)
    removed = cached.remove(found)
    if as_json:
        console.print_json(_document(removed))
        return
    size = _size(sum(entry.nbytes for entry in removed))
    console.out().print(f"deleted {len(removed)} entries, {size}")


def _document(found: list[Entry]) -> dict[str, Any]:
    from specdec.cachedir import cache_root

    return {
        "folder": str(cache_root()),
        "bytes": sum(entry.nbytes for entry in found),
        "entries": [
            {
                "name": entry.name,
                "kind": entry.kind,
                "bytes": entry.nbytes,
                "modified": entry.modified,
                "about": entry.story,
            }
            for entry in found
        ],
    }


def _size(nbytes: int) -> str:
    if nbytes < 1e6:
        return f"{nbytes / 1e3:.0f} kB"
    return f"{nbytes / 1e6:.0f} MB" if nbytes < 1e9 else f"{nbytes / 1e9:.1f} GB"


def _age(seconds: float) -> str:
    for unit, name in _UNITS:
        if seconds >= unit:
            count = int(seconds // unit)
            return f"{count} {name}{'s' if count > 1 else ''}"
    return "0 seconds"
