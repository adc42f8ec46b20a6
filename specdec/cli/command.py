"""Command and Commands: what options, help, errors and interrupts of commands look like."""

from __future__ import annotations

import errno
import os
import re
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import typer

from specdec.cli.console import harmless
from specdec.cli.options import MethodOptions
from specdec.cli.spelling import in_options, renamed
from specdec.errors import SpecdecError

INTERRUPTED = 130  # 128 + SIGINT, as shells count
_ARGUMENTS = "specdec.arguments"
_TYPE = re.compile(r" <(?:str|int|float|path|list\[\w+\])>")


class Command(typer.core.TyperCommand):
    """A command whose errors name its options, not the arguments of Python.

    One with `threads` runs with so many from beginning to end. Where no argument could be meant, an
    option that may be repeated takes several values at once, as in `--data A B`.
    """

    _params: list[Any]
    _is_whole: bool

    @property
    def params(self) -> list[Any]:
        """Those of its function, and the options of methods if it takes them."""
        if self.method_options is not None and not self._is_whole:
            self._is_whole = True
            self._params += self.method_options.params()
        return self._params

    @params.setter
    def params(self, own: list[Any]) -> None:
        self._params = own
        self._is_whole = False

    @property
    def method_options(self) -> MethodOptions | None:
        return getattr(self.callback, "method_options", None)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Of the options of methods those of the ones that are named, or of `auto`."""
        if self.method_options is not None:
            self.method_options.show(self.params, ctx.meta[_ARGUMENTS])
        super().format_help(ctx, formatter)

    def get_help(self, ctx: Any) -> str:
        """Without the types of Python that stand behind the names of arguments."""
        return _TYPE.sub("", super().get_help(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        args, notes = renamed(ctx.info_name or "", args)
        for note in notes:
            typer.echo(f"note: {note}", err=True)
        several = {
            name for option in self.params if getattr(option, "multiple", False)
            for name in option.opts
        }  # fmt: skip
        if not any(param.param_type_name == "argument" for param in self.params):
            args = _apart(args, several)
        ctx.meta[_ARGUMENTS] = tuple(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # of Click, which some releases of Typer bring along
            if "unexpected extra argument" in getattr(error, "message", ""):
                error.message += ": a text with spaces stands in quotes"  # type: ignore[attr-defined]
            raise

    def invoke(self, ctx: Any) -> Any:
        try:
            if self.method_options is not None:
                self.method_options.read(ctx)
            with _threads(ctx.params.get("threads")):
                return super().invoke(ctx)
        except SpecdecError as error:
            error.args = (in_options(str(error), self.params),)
            raise


class Commands(typer.core.TyperGroup):
    """Turns our errors into one line and status 2, and Ctrl-C into status 130.

    So does whatever the system refuses, such as writing to a full disk; a closed pipe is silent.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SpecdecError as error:
            _say(str(error))
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("\ninterrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if sys.stdout is None:
            _say("standard output is closed")
            sys.exit(2)
        try:
            try:
                return super().main(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except OSError as error:
            if error.errno is None:
                raise
            if error.errno != errno.EPIPE:
                _say(f"{error.filename or 'the output cannot be written'}: {error.strerror}")
            _drop_output()
            sys.exit(1 if error.errno == errno.EPIPE else 2)
        except UnicodeEncodeError as error:
            if error.encoding != sys.stdout.encoding.lower():
                raise
            _say(
                f"standard output takes only {error.encoding}, and the text holds other "
                "characters: set PYTHONIOENCODING=utf-8, or use --json with a file"
            )
            sys.exit(2)


def _apart(args: list[str], several: set[str]) -> list[str]:
    """`--data A B` as `--data A --data B`, for the options in `several`."""
    out: list[str] = []
    option = None
    for place, arg in enumerate(args):
        if arg.startswith("-") and arg != "-":
            name = arg.partition("=")[0]
            option = name if name in several else None
        elif option is not None and args[place - 1] != option:
            out.append(option)
        out.append(arg)
    return out


def _threads(count: int | None) -> AbstractContextManager[None]:
    if count is None:
        return nullcontext()
    from specdec.threads import Threads

    return Threads(count).used()


def _say(error: str) -> None:
    typer.echo("error: " + harmless(" ".join(error.split())), err=True)


def _drop_output() -> None:
    """Let what stdout holds back go nowhere, or Python would fail on it once more at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return  # no file of the system's, as in tests
