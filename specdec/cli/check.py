"""`specdec check`: is speculative text the plain text, token for token, on this machine?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specdec.cli import arguments, console, options, prompts
from specdec.errors import InvalidArgument
from specdec.progress import progress_bar

if TYPE_CHECKING:
    from specdec.check import Divergence, Report


@options.MethodOptions()
def check(
    call: typer.Context,
    model: arguments.Model = "demo",
    drafter: arguments.Drafter = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            "--prompt-file",
            "-f",
            help=".jsonl with a field prompt, text or turns (the first counts), or a text file "
            "with a prompt a line. Default: four short ones.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first N prompts.")] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put each prompt into the model's chat template.")
    ] = False,
    max_new_tokens: arguments.MaxNewTokens = arguments.NEW_TOKENS,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="Of the sampled runs; 0 leaves them out.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(help="Of the first prompt; the next has the next.")] = 0,
    transformers: Annotated[
        bool,
        typer.Option(
            "--transformers",
            help="Compare with transformers' own greedy text, too; of a GGUF, with its own forward "
            "on the values that we read from the file.",
        ),
    ] = False,
    dtype: arguments.Dtype = "auto",
    activations: arguments.Activations = "auto",
    device: arguments.Device = "auto",
    threads: arguments.Threads = None,
    trust_remote_code: arguments.TrustRemoteCode = False,
    as_json: arguments.AsJson = False,
) -> None:
    """Compare speculative with plain decoding on this machine.

    Greedy, and sampled with coupled noise.

    Prints the first divergence of each text, and ends with status 1 if there is one.

    \b
    Examples:
      specdec check
      specdec check --draft-model random --dtype float64
      specdec check -m ./my-model -f questions.jsonl --limit 20 --chat
    """  # fmt: skip
    texts = prompts.SHORT if prompt_file is None else prompts.read_prompts(prompt_file, limit)
    texts = texts[:limit]
    if transformers:
        if activations == "int8":
            raise InvalidArgument(
                "--transformers compares with products of unrounded activations: leave "
                "--activations int8 out"
            )
        activations = "float32"
    engine = console.load_engine(model, dtype, device, trust_remote_code, activations=activations)
    from specdec.check import check as run

    drafting = options.drafting(engine, call)
    if drafter is not None:
        drafting["drafter"] = drafter
    stock = None
    if transformers:
        from specdec.loading.loader import load

        stock = load(model, engine.dtype, engine.device, trust_remote_code).model
    with progress_bar("Comparing") as progress:
        report = run(
            engine,
            [prompts.as_chat(text) if chat else text for text in texts],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            stock=stock,
            progress=progress,
            **drafting,
        )
    if as_json:
        console.print_json({"model": engine.name, **report.to_dict()})
    else:
        _print(report, engine.name, transformers)
    if not report.ok:
        raise typer.Exit(1)


def _print(report: Report, model: str, transformers: bool) -> None:
    out = console.out()
    for divergence in report.divergences:
        out.print(_line(divergence), style="red", markup=False)
    counts = dict(report.num_tokens)
    if transformers:
        counts["transformers"] = counts["greedy"]
    for mode, count in counts.items():
        bad = sum(d.mode == mode for d in report.divergences)
        found = f"{bad} of {report.num_prompts} texts differ" if bad else "all equal"
        length = report.mean_acceptance_length.get(mode, report.mean_acceptance_length["greedy"])
        out.print(
            f"{mode}: {report.num_prompts} prompts, {count} tokens, acceptance length "
            f"{length:.2f}: {found}",
            style="red" if bad else "green",
        )
    out.print(f"{model}, {report.dtype}, drafter {report.drafter}", style="dim", markup=False)


def _line(d: Divergence) -> str:
    plain, drafted = (
        "the end" if token is None else f"{console.harmless(text)!r} ({token})"
        for token, text in ((d.plain_id, d.plain_text), (d.drafted_id, d.drafted_text))
    )
    return (
        f"prompt {d.prompt}, {d.mode}, position {d.position}: plain {plain}, drafted {drafted}; "
        f"the target's top-2 logit gap there is {d.top2_gap:.3g}"
    )
