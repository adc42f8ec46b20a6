"""`specdec train-drafter`: distil a target into a LongSpec drafter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def train_drafter(
    target: Annotated[str, typer.Option(help="Model to draft for: folder, hub id, .gguf, demo.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; a run in it is resumed.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Text or source files or folders; default: what is installed here."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 1000,
    rate: Annotated[float, typer.Option(help="Learning rate of the matrices (Muon).")] = 0.01,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of one backward pass.")] = 3072,
    accumulate: Annotated[int, typer.Option(help="Backward passes of one step.")] = 1,
    rows: Annotated[int, typer.Option(help="Texts of a lesson, which the target continues.")] = 96,
    length: Annotated[int, typer.Option(help="Tokens of each of them.")] = 384,
    long: Annotated[int, typer.Option(help="Tokens of texts that the target only reads.")] = 3072,
    steps_per_lesson: Annotated[int, typer.Option(help="Steps between two lessons.")] = 36,
    remember: Annotated[int, typer.Option(help="Newest lessons that a step draws from.")] = 8,
    draft_vocab: Annotated[int, typer.Option(help="Most frequent tokens to draft; 0: all.")] = 8192,
    mlp_size: Annotated[int, typer.Option(help="Width of the MLP; 0: the target's.")] = 0,
    window: Annotated[int, typer.Option(help="Reach of self-attention in tokens.")] = 512,
    argmax_weight: Annotated[float, typer.Option(help="Of cross-entropy on the argmax.")] = 0.0,
    hidden_weight: Annotated[float, typer.Option(help="Of smooth-L1 on hidden states.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Same seed and settings: same weights.")] = 0,
    dtype: Annotated[str, typer.Option(help="Of the target while it teaches.")] = "bfloat16",
    mixed_precision: Annotated[str, typer.Option(help="Of the block's training: no, bf16.")] = "bf16",
    examine_minutes: Annotated[float, typer.Option(help="Between held-out examinations.")] = 5.0,
    held_out: Annotated[int, typer.Option(help="Held-out texts to examine.")] = 32,
    patience: Annotated[int, typer.Option(help="Examinations without progress to stop at.")] = 1000,
    keep_lessons: Annotated[bool, typer.Option(help="Leave all lessons in the folder.")] = False,
    stop_after: Annotated[
        int | None, typer.Option(help="End this session after so many steps; resume later.")
    ] = None,
) -> None:
    """Train a LongSpec drafter for a model: plainly, or under `accelerate launch`.

    The target continues texts cut from the data, and the drafter learns what it would say.
    """
    from accelerate import Accelerator

    from specdec.drafts.training.console import Console
    from specdec.drafts.training.corpus import gather
    from specdec.drafts.training.plot import plot_log
    from specdec.drafts.training.settings import Settings
    from specdec.drafts.training.trainer import Pace, Trainer
    from specdec.errors import InvalidArgument
    from specdec.loader import load
    from specdec.target import Target

    if mixed_precision not in ("no", "bf16"):
        raise InvalidArgument(f"--mixed-precision {mixed_precision}: give no or bf16")
    settings = Settings(
        steps=steps, rate=rate, batch_tokens=batch_tokens, accumulate=accumulate, rows=rows,
        length=length, long=long, steps_per_lesson=steps_per_lesson, remember=remember,
        draft_vocab=draft_vocab, mlp_size=mlp_size, window=window, argmax_weight=argmax_weight,
        hidden_weight=hidden_weight, seed=seed,
    )  # fmt: skip
    pace = Pace(examine_minutes, patience, held_out, keep_lessons, stop_after)
    files = gather(data or [])
    accelerator = Accelerator(mixed_precision=mixed_precision)
    model, tokenizer, source = load(target, dtype=dtype, device=accelerator.device)
    if tokenizer is None:
        raise InvalidArgument(f"--target {target} has no tokenizer, so there is nothing to teach")
    about: dict[str, Any] = {"target": source, "files": len(files), "dtype": dtype}
    trainer = Trainer(
        Target(model), tokenizer, files, out, settings, pace, accelerator, about
    )
    with Console(settings.steps, accelerator.is_main_process) as console:
        trainer.run(console.report)
    if accelerator.is_main_process:
        plot_log(out / "log.jsonl", out / "training.png")
        typer.echo(f"{out}: best acceptance length of a chain of 4 on held-out texts {trainer.best:.3f}")
    accelerator.end_training()
