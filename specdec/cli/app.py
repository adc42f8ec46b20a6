"""The `specdec` command: its subcommands, and what errors and interrupts look like."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any

import typer

from specdec._version import __version__
from specdec.cli import (
    arguments,
    bench,
    bench_kernels,
    bench_neighbours,
    bench_offload,
    bench_step,
    cache,
    calibrate,
    check,
    env,
    generate,
    listing,
    measure_drafter,
    methods,
    plan,
    train_drafter,
    view_profile,
)
from specdec.cli.console import StderrHandler, harmless
from specdec.cli.options import MethodOptions
from specdec.cli.spelling import in_options
from specdec.errors import InvalidArgument, SpecdecError

INTERRUPTED = 130  # 128 + SIGINT, as shells count


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

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        several = {
            name for option in self.params if getattr(option, "multiple", False)
            for name in option.opts
        }  # fmt: skip
        if not any(param.param_type_name == "argument" for param in self.params):
            args = _apart(args, several)
        return super().parse_args(ctx, args)

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


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(commands: dict[str, Callable[..., Any]], group: typer.Typer) -> None:
    for name, function in commands.items():
        group.command(name, cls=Command)(function)


_add(
    {
        "generate": generate.generate,
        "check": check.check,
        "profile": view_profile.view_profile,
        "calibrate": calibrate.calibrate,
        "train-drafter": train_drafter.train_drafter,
        "measure-drafter": measure_drafter.measure_drafter,
        "plan": plan.plan,
        "list": listing.listing,
        "methods": methods.methods,
        "env": env.env,
    },
    app,
)
bench_app = typer.Typer(help="Measure speed and acceptance.", no_args_is_help=True)
_add(
    {
        "run": bench.run,
        "compare": bench.compare,
        "step": bench_step.step,
        "offload": bench_offload.offload,
        "kernels": bench_kernels.kernels,
        "neighbours": bench_neighbours.neighbours,
    },
    bench_app,
)
app.add_typer(bench_app, name="bench")
cache_app = typer.Typer(help="What the cache folder holds; without a command: list it.")
_add({"list": cache.listing, "clear": cache.clear}, cache_app)


@cache_app.callback(invoke_without_command=True)
def _list_cache(context: typer.Context, as_json: arguments.AsJson = False) -> None:
    if context.invoked_subcommand is None:
        cache.listing(as_json)
    elif as_json:
        raise InvalidArgument("give --json behind the command, as in `specdec cache list --json`")


app.add_typer(cache_app, name="cache")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def specdec(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True)
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say which paths are taken, and why.")
    ] = False,
) -> None:
    """Lossless speculative decoding for any Hugging Face causal LM."""
    log = logging.getLogger("specdec")  # others, such as the hub's, have handlers of their own
    log.handlers = [StderrHandler()]
    log.setLevel(logging.INFO if verbose else logging.WARNING)


def main() -> None:
    """The console script."""
    app()
