"""Names and values in the words of the command line, not of Python."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from typer.models import OptionInfo

F = TypeVar("F", bound=Callable[..., Any])

# Options of one release ago, by command. They work, with a word on it.
_RENAMED = {
    "check": {"--prompts": "--prompt-file"},
    "measure-drafter": {
        "--drafter": "--checkpoint", "--new-tokens": "--max-new-tokens",
        "--prompts": "--prompt-file", "--target": "--model",
    },
    "offload": {"--new-tokens": "--max-new-tokens"},
    "profile": {"--drafter": "--views"},
    "train-drafter": {"--target": "--model"},
}  # fmt: skip
_TYPED = {str: "TEXT", int: "N", float: "X", Path: "PATH"}

# An argument as errors write it, `name=` or `name=value`; or a word that can only be a name.
_NAME = re.compile(r"\b(?<!-)([a-z]+(?:_[a-z]+)+\b(?!=)|[a-z_]+=(\S?))")
_LIST = re.compile(r"\b[a-z_]+=(?:, [a-z_]+=)+(?=[,;:.)\s]|$)")


def in_options(message: str, params: Iterable[Any]) -> str:
    """The message of an error with every argument that a command has under the option's name.

    Of a list of arguments only those are left that it has.
    """
    options = {param.name: param.opts[0] for param in params if param.opts[0].startswith("--")}

    def spelled(match: re.Match[str]) -> str:
        found, after = match.group(1), match.group(2) or ""
        option = options.get(found.partition("=")[0])
        if option is None:
            return found
        has_value = after and after not in ":;,.)"
        return f"{option}{' ' if has_value else ''}{after}"

    def known(match: re.Match[str]) -> str:
        names = [name for name in match.group().split(", ") if name[:-1] in options]
        return ", ".join(names) or match.group()

    return _NAME.sub(spelled, _LIST.sub(known, message))


def renamed(command: str, args: Iterable[str]) -> tuple[list[str], list[str]]:
    """Arguments with options by their names of today, and a line for each that had another."""
    new, notes = _RENAMED.get(command, {}), []
    found = []
    for arg in args:
        name, *value = arg.split("=", 1)
        if name in new:
            notes.append(f"{name} is {new[name]} now")
        found.append("=".join([new.get(name, name), *value]))
    return found, notes


def shown_as_typed(command: F) -> F:
    """The same function, whose values help shows as what one types, not as types of Python."""
    command.__annotations__ = get_type_hints(command, include_extras=True)
    for hint in command.__annotations__.values():
        kind, *infos = get_args(hint) or (hint,)
        found = [name for of, name in _TYPED.items() if of in _plain(kind)]
        for info in infos:
            if found and isinstance(info, OptionInfo) and info.metavar is None:
                info.metavar = found[0]
    return command


def _plain(kind: Any) -> set[Any]:
    """The types that stand in an annotation, such as Path in `list[Path] | None`."""
    return set().union(*map(_plain, get_args(kind))) if get_args(kind) else {kind}
