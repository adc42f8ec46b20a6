"""Options of methods as options of commands: made of the fields that define them."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from specdec.method import Option
from specdec.registry import DRAFTERS, VIEWS, holders, read_option

if TYPE_CHECKING:
    from specdec.engine import Engine

F = TypeVar("F", bound=Callable[..., Any])

_GIVEN = "specdec.options"
_OTHER_NAMES = {"num_draft_tokens": "--num-speculative-tokens"}


@dataclass(frozen=True)
class MethodOptions:
    """The options of all methods, for a command that takes them; `given` is what it got.

    Methods are looked at when the command is run or asked for help, not before. without: names it
    does without. views_only: those of views alone.
    """

    without: Collection[str] = ()
    views_only: bool = False

    def __call__(self, command: F) -> F:
        """Marks a command, as a decorator."""
        command.method_options = self  # type: ignore[attr-defined]
        return command

    def params(self) -> list[Any]:
        """They as options of the command line."""

        def command(**given: Any) -> None: ...

        found = self._found()
        made = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(methods)
            )
            for name, methods in found.items()
        ]
        command.__signature__ = inspect.Signature(made)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in made}
        only = typer.Typer(add_completion=False)
        only.command()(command)
        return [p for p in typer.main.get_command(only).params if p.name in found]

    def read(self, context: typer.Context) -> None:
        """Take them out of the parameters, and their text for values. Raises InvalidArgument."""
        texts = {name: context.params.pop(name) for name in self._found()}
        context.meta[_GIVEN] = {
            name: read_option(name, text) for name, text in texts.items() if text is not None
        }

    def show(self, params: Collection[Any], arguments: Sequence[str]) -> None:
        """Show in help what those methods have that are named in `arguments`, or else `auto`.

        Changes `hidden` and `help` of the parameters.
        """
        words = {word for one in arguments for word in re.split(r"[=,+:]", one)}
        named = {name for name in (*VIEWS, *DRAFTERS) if name in words} or {"auto"}
        found = self._found()
        for param in params:
            if param.name in found:
                holders = {who: one for who, one in found[param.name].items() if who in named}
                param.hidden = not holders
                param.help = _help(holders or found[param.name])

    def _found(self) -> dict[str, Mapping[str, Option]]:
        of_views = _of_views()
        return {
            name: found
            for name, found in holders().items()
            if name not in self.without and (not self.views_only or name in of_views)
        }


def given(context: typer.Context) -> dict[str, Any]:
    """The options of methods that a command was given, by name."""
    found: dict[str, Any] = context.meta[_GIVEN]
    return found


def drafting(engine: Engine, context: typer.Context) -> dict[str, Any]:
    """They for a call of the engine, with the draft model 'random' made."""
    options = dict(given(context))
    if options.get("draft_model") == "random":
        from specdec.cli.random_draft import random_draft

        options["draft_model"] = random_draft(engine)
    return options


def defaults(found: Mapping[str, Option]) -> str:
    """What is taken where an option is not given, by whom; empty where the help says it."""
    shown = Counter(option.shown for option in found.values())
    (most, _), *others = shown.most_common()
    if not others:
        return most and f"Default: {most}."
    ours = {other: [who for who, o in found.items() if o.shown == other] for other, _ in others}
    return f"Default: {most or 'by method'}; " + "; ".join(
        f"{value or 'by method'} ({', '.join(names)})" for value, names in ours.items()
    )


def _of_views() -> set[str]:
    """The names of the options that views have."""
    return {name for view in VIEWS.values() for name in view.options}


def _annotation(found: Mapping[str, Option]) -> Any:
    one = next(iter(found.values()))
    spelled = [f"--{one.name.replace('_', '-')}"]
    if one.name in _OTHER_NAMES:
        spelled.append(_OTHER_NAMES[one.name])
    shown = typer.Option(
        *spelled,
        metavar=one.kind.metavar,
        help=_help(found),
    )
    return Annotated[str | None, shown]


def _help(found: Mapping[str, Option]) -> str:
    return f"{next(iter(found.values())).help} {defaults(found)}".strip()
