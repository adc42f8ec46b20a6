"""The `specdec` command: its subcommands, and what errors and interrupts look like."""

from __future__ import annotations

import logging
from typing import Annotated, Any

import typer

from specdec._version import __version__
from specdec.cli import (
    bench,
    bench_kernels,
    bench_offload,
    bench_step,
    check,
    env,
    generate,
    listing,
    measure_drafter,
    plan,
    train_drafter,
    view_profile,
)
from specdec.errors import SpecdecError

INTERRUPTED = 130  # 128 + SIGINT, as shells count


class Commands(typer.core.TyperGroup):
    """Turns our errors into one line and status 2, and Ctrl-C into status 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SpecdecError as error:
            typer.echo("error: " + " ".join(str(error).split()), err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("\ninterrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate")(generate.generate)
app.command("check")(check.check)
app.command("profile")(view_profile.view_profile)
app.command("train-drafter")(train_drafter.train_drafter)
app.command("measure-drafter")(measure_drafter.measure_drafter)
app.command("plan")(plan.plan)
app.command("list")(listing.listing)
app.command("env")(env.env)
bench.bench.command("step")(bench_step.step)
bench.bench.command("offload")(bench_offload.offload)
bench.bench.command("kernels")(bench_kernels.kernels)
app.add_typer(bench.bench, name="bench")


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
    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger("specdec").setLevel(logging.INFO if verbose else logging.WARNING)


def main() -> None:
    """The console script."""
    app()
