"""A training run from names to a checkpoint: model, data, processes, progress and plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from specdec.drafts.longspec.training.console import Console
from specdec.drafts.longspec.training.corpus import gather
from specdec.drafts.longspec.training.out_folder import LOG, PICTURE, check_out
from specdec.drafts.longspec.training.plot import plot_log
from specdec.drafts.longspec.training.settings import Pace, Settings
from specdec.drafts.longspec.training.trainer import Trainer
from specdec.drafts.specvlm.training.pairs import gather_pairs
from specdec.drafts.specvlm.training.settings import ImageSettings
from specdec.drafts.specvlm.training.trainer import ImageTrainer
from specdec.errors import InvalidArgument
from specdec.loading.loader import load
from specdec.model.take_up import take_up


def train(
    target: str,
    data: Sequence[Path],
    out: Path,
    settings: dict[str, Any],
    pace: dict[str, Any],
    dtype: str,
    mixed_precision: str,
    images: Sequence[Path] = (),
) -> float | None:
    """Train the drafter of `target` into the folder `out`; a run that is there is resumed.

    images: pairs of images and texts, for a SpecVLM; settings are then `ImageSettings`.

    Returns the best simulated acceptance length, in the main process of several, else None. Raises
    InvalidArgument for settings that make no sense and for data without text.
    """
    if mixed_precision not in ("no", "bf16"):
        raise InvalidArgument(f"--mixed-precision {mixed_precision}: give no or bf16")
    chosen = ImageSettings(**settings) if images else Settings(**settings)
    how_often = Pace(**pace)
    check_out(out)
    files = gather(data)
    pairs = gather_pairs(images) if images else []
    # Each process draws its own lag, and so leaves the matrices of other lags unused.
    parallel = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(mixed_precision=mixed_precision, kwargs_handlers=[parallel])
    loaded = load(target, dtype=dtype, device=accelerator.device)
    if loaded.tokenizer is None:
        raise InvalidArgument(f"--model {target} has no tokenizer, so there is nothing to read")
    about = {
        "target": loaded.source, "files": len(files), "dtype": dtype, "precision": mixed_precision,
    }  # fmt: skip
    model = take_up(loaded.model, is_packed=False)
    trainer: Trainer
    if isinstance(chosen, ImageSettings):
        about["pairs"] = len(pairs)
        trainer = ImageTrainer(
            model, loaded, files, pairs, out, chosen, how_often, accelerator, about
        )
    else:
        trainer = Trainer(
            model, loaded.tokenizer, files, out, chosen, how_often, accelerator, about
        )
    main = accelerator.is_main_process
    with Console(chosen.steps, main) as console:
        trainer.run(console.report)
    if main:
        plot_log(out / LOG, out / PICTURE)
    accelerator.end_training()
    return trainer.best if main else None
