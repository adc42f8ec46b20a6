"""The names of Python arguments in an error, as the options of a command."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

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
