"""`specdec train-drafter`: distil a target into a LongSpec drafter, or a SpecVLM with images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specdec.cli import arguments, console
from specdec.errors import InvalidArgument


def train_drafter(
    model: Annotated[
        str, typer.Option("--model", "-m", help="To draft for: demo, hub id, folder, .gguf file.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; a run in it is resumed.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Text or source files or folders, one or several; default: what is installed here."
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folders (images, a .txt beside each) or JSONL files (image, question, answer) of "
            "image-text pairs: the drafter is then a SpecVLM."
        ),
    ] = None,
    start: Annotated[
        str,
        typer.Option(help="Checkpoint to begin from: a folder, or longspec-demo, which ships."),
    ] = "",
    learn: Annotated[
        str, typer.Option(help="Of the block: all, or cross for its cross-attention alone.")
    ] = "all",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 1000,
    rate: Annotated[float, typer.Option(help="Learning rate of the matrices (Muon).")] = 0.003,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of one backward pass.")] = 3072,
    accumulate: Annotated[int, typer.Option(help="Backward passes of one step.")] = 1,
    rows: Annotated[int, typer.Option(help="Texts of a lesson, which the target continues.")] = 64,
    length: Annotated[int, typer.Option(help="Tokens of each of them.")] = 384,
    long: Annotated[int, typer.Option(help="Tokens of texts that the target only reads.")] = 3072,
    first_lessons: Annotated[int, typer.Option(help="Lessons before the first step.")] = 2,
    steps_per_lesson: Annotated[int, typer.Option(help="Steps between two lessons.")] = 24,
    remember: Annotated[int, typer.Option(help="Newest lessons that a step draws from.")] = 40,
    draft_vocab: Annotated[int, typer.Option(help="Most frequent tokens to draft; 0: all.")] = 8192,
    mlp_size: Annotated[int, typer.Option(help="Width of the MLP; 0: the target's.")] = 0,
    window: Annotated[int, typer.Option(help="Reach of self-attention in tokens.")] = 512,
    kv_layer: Annotated[
        int,
        typer.Option(help="Layer of the target whose keys and values are read; -1: the last one."),
    ] = -1,
    logits_weight: Annotated[
        float | None,
        typer.Option(help="Of cross-entropy on the target's distribution; 1, with images 0.1."),
    ] = None,
    argmax_weight: Annotated[float, typer.Option(help="Of cross-entropy on the argmax.")] = 0.0,
    hidden_weight: Annotated[
        float | None, typer.Option(help="Of smooth-L1 on hidden states; 0, with images 1.")
    ] = None,
    text_steps: Annotated[
        int | None,
        typer.Option(help="With images: steps on text alone, before their share rises; 200."),
    ] = None,
    image_start: Annotated[
        float | None,
        typer.Option(help="With images: their share where it begins to rise; 0."),
    ] = None,
    first_image_lessons: Annotated[
        int | None, typer.Option(help="With images: lessons with them before the first step; 2.")
    ] = None,
    image_rows: Annotated[
        int | None, typer.Option(help="With images: pairs of a lesson; 16.")
    ] = None,
    answer_tokens: Annotated[
        int | None, typer.Option(help="With images: longest answer of a lesson; 48.")
    ] = None,
    steps_per_image_lesson: Annotated[
        int | None, typer.Option(help="With images: steps on them between two lessons; 8.")
    ] = None,
    image_tokens: Annotated[
        int | None, typer.Option(help="With images: entries that stand for one at most; 16.")
    ] = None,
    image_stride: Annotated[
        int | None, typer.Option(help="With images: neighbours that a convolution mixes; 4.")
    ] = None,
    image_queries: Annotated[
        int | None, typer.Option(help="With images: learned queries of the resampler; 2.")
    ] = None,
    image_branch: Annotated[
        str | None, typer.Option(help="With images: a branch that learns from half of the texts.")
    ] = None,
    seed: arguments.TrainingSeed = 0,
    dtype: Annotated[str, typer.Option(help="Of the target while it teaches.")] = "bfloat16",
    mixed_precision: Annotated[str, typer.Option(help="Of the block: no or bf16.")] = "bf16",
    examine_minutes: Annotated[float, typer.Option(help="Between held-out examinations.")] = 5.0,
    held_out: Annotated[int, typer.Option(help="Held-out texts to examine.")] = 32,
    patience: Annotated[int, typer.Option(help="Examinations without progress to stop at.")] = 1000,
    keep_lessons: Annotated[bool, typer.Option(help="Leave all lessons in the folder.")] = False,
    stop_after: arguments.StopAfter = None,
    as_json: arguments.AsJson = False,
) -> None:
    """Train a LongSpec drafter, or SpecVLM's with images.

    The target continues texts cut from the data, and answers questions about images; the drafter
    learns what it would say. Runs plainly, or under `accelerate launch`.

    \b
    Examples:
      specdec train-drafter --model ./my-model --out my-drafter
      specdec train-drafter --model ./my-model --data texts code --out my-drafter
      specdec train-drafter -m demo-vision --images pairs.jsonl --out my-drafter
      accelerate launch --num_processes 4 $(which specdec) train-drafter --out d
    """
    from specdec.drafts.longspec.training.run import train

    own = {
        "text_steps": text_steps, "image_start": image_start,
        "first_image_lessons": first_image_lessons, "image_rows": image_rows,
        "answer_tokens": answer_tokens,
        "steps_per_image_lesson": steps_per_image_lesson, "image_tokens": image_tokens,
        "stride": image_stride, "queries": image_queries, "favourite": image_branch,
    }  # fmt: skip
    given: dict[str, float | str] = {k: value for k, value in own.items() if value is not None}
    if given and not images:
        raise InvalidArgument(f"{next(iter(given))} is for training with images: give --images")
    weights = {"logits_weight": logits_weight, "hidden_weight": hidden_weight}
    given |= {k: value for k, value in weights.items() if value is not None}
    best = train(
        model,
        data or [],
        out,
        settings={
            "steps": steps, "rate": rate, "batch_tokens": batch_tokens, "accumulate": accumulate,
            "rows": rows, "length": length, "long": long, "first_lessons": first_lessons,
            "steps_per_lesson": steps_per_lesson,
            "remember": remember, "draft_vocab": draft_vocab, "mlp_size": mlp_size,
            "window": window, "kv_layer": kv_layer, "argmax_weight": argmax_weight, "seed": seed,
            "start": start,
            "learn": learn, **given,
        },
        pace={
            "examine_minutes": examine_minutes, "patience": patience, "held_out": held_out,
            "keep_lessons": keep_lessons, "stop_after": stop_after,
        },
        dtype=dtype,
        mixed_precision=mixed_precision,
        images=images or [],
    )  # fmt: skip
    if best is None:
        return
    if as_json:
        console.print_json({"out": str(out), "acceptance_length": best})
    else:
        typer.echo(f"{out}: acceptance length {best:.3f} on held-out texts, chain of 4")
