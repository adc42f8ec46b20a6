"""The `specdec` command: its subcommands."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any

import typer

from specdec._version import __version__
from specdec.cli import (
    arguments,
    bench,
    bench_image_costs,
    bench_images,
    bench_kernels,
    bench_methods,
    bench_neighbours,
    bench_offload,
    bench_rounding,
    bench_shared,
    bench_start,
    bench_step,
    cache,
    calibrate,
    chat,
    check,
    env,
    generate,
    listing,
    measure_drafter,
    methods,
    plan,
    serve,
    train_drafter,
    train_vision,
    view_profile,
)
from specdec.cli.command import Command, Commands
from specdec.cli.console import StderrHandler
from specdec.cli.spelling import shown_as_typed
from specdec.errors import InvalidArgument

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(commands: dict[str, Callable[..., Any]], group: typer.Typer) -> None:
    for name, function in commands.items():
        group.command(name, cls=Command, epilog=_epilog(function))(shown_as_typed(function))


def _epilog(command: Callable[..., Any]) -> str | None:
    """Where the options are that help leaves out."""
    if not hasattr(command, "method_options"):
        return None
    return "Options of a drafter or view: `specdec list NAME`, or --help behind its name."


_add(
    {
        "generate": generate.generate,
        "chat": chat.chat,
        "serve": serve.serve,
        "check": check.check,
        "profile": view_profile.view_profile,
        "calibrate": calibrate.calibrate,
        "train-drafter": train_drafter.train_drafter,
        "measure-drafter": measure_drafter.measure_drafter,
        "train-vision": train_vision.train_vision,
        "measure-vision": train_vision.measure_vision,
        "draw-pictures": train_vision.draw_pictures,
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
        "start": bench_start.start,
        "offload": bench_offload.offload,
        "kernels": bench_kernels.kernels,
        "neighbours": bench_neighbours.neighbours,
        "shared": bench_shared.shared,
        "rounding": bench_rounding.rounding,
        "images": bench_images.images,
        "image-costs": bench_image_costs.image_costs,
        "methods": bench_methods.methods,
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
