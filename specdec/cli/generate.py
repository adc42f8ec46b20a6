"""`specdec generate`: text for a prompt, and what speculation brought."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from specdec.cli import arguments, console, options, prompts
from specdec.cli.pictures import shown
from specdec.cli.summary import Comparison, print_summary
from specdec.errors import InvalidArgument

if TYPE_CHECKING:
    from specdec.decoding.output import Generation, Step
    from specdec.engine import Engine

_PLAIN_TOKENS = 32  # of the plain run that the summary compares with


@options.MethodOptions()
def generate(
    call: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Argument(help="Default: standard input; at a terminal, a built-in example."),
    ] = None,
    model: arguments.Model = "demo",
    prompt_file: Annotated[
        Path | None, typer.Option("--prompt-file", "-f", help="Read the prompt from a file.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")
    ] = False,
    images: Annotated[
        list[Path] | None,
        typer.Option("--image", help="Show the model a picture; may be repeated."),
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="Show it a video, or its frames where it reads no videos.")
    ] = None,
    drafter: arguments.Drafter = None,
    view: Annotated[
        str, typer.Option(help="What the model itself reads; all but 'full' change the text.")
    ] = "full",
    acceptance: Annotated[str, typer.Option(help="coupled or rejection.")] = "coupled",
    max_new_tokens: arguments.MaxNewTokens = arguments.NEW_TOKENS,
    temperature: arguments.Temperature = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Only the k most probable tokens.")] = None,
    top_p: arguments.TopP = None,
    min_p: Annotated[
        float | None, typer.Option(help="Only tokens with p of the best one's probability.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1: tokens of the text become less probable.")
    ] = None,
    seed: arguments.Seed = None,
    stop_strings: Annotated[
        list[str] | None, typer.Option("--stop", help="End before this text; may be repeated.")
    ] = None,
    dtype: arguments.Dtype = "auto",
    activations: arguments.Activations = "auto",
    weights: arguments.Weights = "auto",
    device: arguments.Device = "auto",
    threads: arguments.Threads = None,
    trust_remote_code: arguments.TrustRemoteCode = False,
    gpu_memory: arguments.GpuMemory = None,
    cpu_memory: arguments.CpuMemory = None,
    offload_folder: arguments.OffloadFolder = None,
    kv_tier: arguments.KvTier = "auto",
    device_map: arguments.DeviceMap = None,
    saved_prompt: arguments.SavedPrompt = None,
    saved_documents: arguments.SavedDocuments = None,
    as_json: arguments.AsJson = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say who drafted in which rounds, and why.")
    ] = False,
    compare: Annotated[
        bool | None,
        typer.Option(
            help="Decode the first 32 tokens plainly too, and compare. Default: yes, but for JSON."
        ),
    ] = None,
) -> None:
    """Generate text, with accepted draft tokens in green.

    A summary stands at the end.

    The text goes to standard output, everything else to standard error.
    Ends with status 1 if it differs from plain decoding.

    \b
    Examples:
      specdec generate
      specdec generate "Once upon a time" -n 64 --temperature 0.8 --seed 1
      specdec generate --chat --prompt-file question.txt --drafter none
      git diff | specdec generate --model ./my-model --json
      specdec generate --model ./my-vision-model --image page.png "Read the text."
    """
    text = prompts.read_prompt(prompt, prompt_file)
    if text is None and not as_json:
        note = f"No prompt given: a built-in example.\n\n{prompts.DEMO}\n"
        console.err().print(note, style="dim", markup=False)
    memory = console.memory(gpu_memory, cpu_memory, offload_folder, kv_tier, device_map)
    engine = console.load_engine(
        model, dtype, device, trust_remote_code, activations=activations, weights=weights, **memory
    )
    if text is None and (images or video):
        raise InvalidArgument("--image and --video need a prompt: say what to do with them")
    if text is None:
        text, chat = prompts.DEMO, bool(getattr(engine.tokenizer, "chat_template", None))
    request: Any = prompts.as_chat(text) if chat else text
    if images or video:
        request = shown(engine, text, images or [], video)
    sampling = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "stop_strings": stop_strings or None,
        "seed": seed,
    }
    settings: dict[str, Any] = {
        name: value for name, value in sampling.items() if value is not None
    }
    drafting = options.drafting(engine, call)
    if drafter is not None:
        drafting["drafter"] = drafter
    if not as_json and (gpu_memory or cpu_memory or kv_tier != "auto"):
        _print_plan(engine, request, max_new_tokens)
    if saved_documents:
        settings["saved_documents"] = saved_documents
    if saved_prompt is not None:
        settings["saved_prompt"] = saved_prompt
        if not saved_prompt.exists():
            engine.save_prompt(request, saved_prompt)
    stream = engine.stream(
        request,
        acceptance=acceptance,
        view=view,
        max_new_tokens=max_new_tokens,
        **drafting,
        **settings,
    )
    if as_json:
        stream.run()
    else:
        print_steps(stream)
    (result,) = stream.generations
    comparison = None
    if compare if compare is not None else not as_json:
        comparison = _compare(engine, request, result, settings)
    if as_json:
        console.print_json(_as_dict(result, comparison))
    else:
        if explain:
            _print_choices(result)
        print_summary(result, comparison)
    if comparison is not None and comparison.equal is False:
        raise typer.Exit(1)


def _print_plan(engine: Engine, request: Any, new_tokens: int) -> None:
    """Where the memory goes that was asked about, and what speed to expect."""
    from specdec.cli.plan import lines
    from specdec.decoding.prompt import read_prompts
    from specdec.offload.plan import plan_of

    (asked,), _ = read_prompts(request, engine.tokenizer, engine.target.vocab_size)
    context = min(len(asked.ids) + new_tokens, engine.target.longest_text)
    plan = plan_of(engine.target, engine.name, engine.kv_memory, context, 1)
    console.err().print("\n".join(lines(plan)) + "\n", style="dim", markup=False)


def print_steps(steps: Iterable[Step]) -> None:
    """The text as it comes: on a terminal with accepted draft tokens in green, else as it is."""
    out = console.out()
    for step in steps:
        if not out.is_terminal:
            console.write(step.text)
            continue
        line = Text()
        for source, piece in zip(step.sources, step.pieces, strict=True):
            line.append(console.harmless(piece), "" if source == "target" else "green")
        out.print(line, end="")
    out.print()


def _compare(
    engine: Engine, request: Any, result: Generation, settings: dict[str, Any]
) -> Comparison:
    """Decode the start of the same request plainly, in this process: its speed and its tokens."""
    if result.seed is not None:
        settings = {**settings, "seed": result.seed}
    count = min(_PLAIN_TOKENS, len(result.token_ids))
    plain = engine.generate(request, drafter="none", max_new_tokens=count, **settings)
    assert not isinstance(plain, list)
    equal = None
    if result.seed is None or result.acceptance == "coupled":
        equal = plain.token_ids == result.token_ids[:count]
    return Comparison(len(plain.token_ids), plain.stats.tokens_per_s, equal)


def _print_choices(result: Generation) -> None:
    """What was chosen in which rounds, and how often in all."""
    err, choices = console.err(), result.stats.choices
    lines = result.stats.explanation or [f"{result.drafter} was asked for, so nothing was chosen"]
    err.print("\n" + "\n".join(lines), style="dim", markup=False)
    counts = ", ".join(f"{name} {count}" for name, count in choices.most_common())
    err.print(f"rounds by proposer: {counts}", style="dim", markup=False)
    for reason, count in result.stats.unasked.items():
        err.print(f"not asked in {count} rounds: {reason}", style="dim", markup=False)


def _as_dict(result: Generation, comparison: Comparison | None) -> dict[str, Any]:
    plain = {} if comparison is None else {"plain": asdict(comparison)}
    return {**result.to_dict(), **plain}
