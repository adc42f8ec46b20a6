"""`specdec calibrate`: measure of a model what a KV method wants to know of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specdec.cli import arguments, console, prompts


def calibrate(
    method: Annotated[
        str, typer.Argument(help="razor, duo, compresskv, uncomp, epicache, cskv, locret.")
    ],
    file: Annotated[Path, typer.Argument(help="Where to write what was measured.")],
    model: arguments.Model = "demo",
    prompt_file: Annotated[
        Path | None,
        typer.Option("--prompt-file", "-f", help="Text to measure on. Default: the Python manual."),
    ] = None,
    dtype: arguments.Dtype = "auto",
    activations: arguments.Activations = "auto",
    device: arguments.Device = "auto",
    threads: arguments.Threads = None,
    trust_remote_code: arguments.TrustRemoteCode = False,
    as_json: arguments.AsJson = False,
) -> None:
    """Measure heads and layers of a model for a KV method.

    Or train its retaining heads.

    Methods do so by themselves when they are first used with a model, and keep the result in the
    cache folder; a file of your own is measured on your own text.

    \b
    Examples:
      specdec calibrate razor heads.json
      specdec calibrate compresskv heads.json -m ./my-model -f corpus.txt
      specdec generate --drafter compresskv --calibration heads.json
    """
    from specdec.sparse.calibrations.finding import measured, sample

    words = None if prompt_file is None else prompts.read_prompt(None, prompt_file)
    engine = console.load_engine(model, dtype, device, trust_remote_code, activations=activations)
    text = sample(engine.target, engine.tokenizer, words, str(prompt_file or ""))
    measured(engine.target, method, text).save(file)
    if as_json:
        console.print_json({"method": method, "file": str(file), "text": text.name})
        return
    console.out().print(
        f"Wrote {file}: what {method} wants to know of {engine.name}, measured on {text.name}.",
        markup=False,
    )
