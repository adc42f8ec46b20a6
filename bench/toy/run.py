"""A training run of the toy that sees, from a folder to weights and figures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from specdec.bench.toy import pages, stages
from specdec.bench.toy.beginning import begin
from specdec.bench.toy.examine import examine
from specdec.bench.toy.language import Language
from specdec.bench.toy.pictures import Pictures
from specdec.bench.toy.settings import Settings
from specdec.bench.toy.stages import School
from specdec.bench.toy.trainer import Report, Trainer
from specdec.errors import InvalidArgument
from specdec.files import replacing, write_text
from specdec.loading import demo_vision
from specdec.loading.loader import load

WEIGHTS, FIGURES = "demo-vision.safetensors", "figures.json"
_FIRST_LOOK = 200  # pictures that a tower's beginning is made from


def train_vision(
    out: Path,
    settings: Settings,
    easy_vqa: Path | None,
    stop_after: int | None,
    report: Report,
) -> bool:
    """Train tower and projector for the demo model; a run that is in `out` is resumed.

    stop_after: steps of the stage that is under way, after which to leave off. Returns whether all
    stages are done; the weights are written after each call, whole, in float16.
    """
    if out.exists() and not out.is_dir():
        raise InvalidArgument(f"--out {out} is a file: give a folder")
    school = _school(settings, easy_vqa)
    # How long a stage goes on may be changed under way.
    given = {**asdict(settings), "fonts": list(settings.fonts)}
    fixed = {name: x for name, x in given.items() if not name.endswith("_steps")}
    about = {**fixed, "easy_vqa": easy_vqa is not None, "tower": demo_vision.TOWER}
    trainer = Trainer(out, about, report)
    done = trainer.run(
        stages.speech(
            school, settings.language_steps, settings.language_batch, settings.language_rate
        ),
        stop_after,
    )
    if done:
        done = trainer.run(
            stages.sight(school, settings.tower_steps, settings.tower_batch, settings.tower_rate),
            stop_after,
        )
    if done:
        done = trainer.run(
            stages.answers(
                school, settings.answer_steps, settings.answer_batch, settings.answer_rate
            ),
            stop_after,
        )
    tensors = {k: x.half().contiguous() for k, x in demo_vision.eyes(school.model).items()}
    with replacing(out / WEIGHTS) as unfinished:
        save_file(tensors, unfinished, {"settings": json.dumps(about)})
    return done


def measure_vision(
    out: Path | None, words: int, easy_vqa: Path | None, count: int, report: Any
) -> dict[str, float]:
    """Figures of the weights in `out`, beside which they are written, or of those that ship.

    words: how many it was to learn; count: pictures of each kind.
    """
    school = _school(Settings(words=words), None, is_fast=False)
    path = demo_vision.WEIGHTS if out is None else out / WEIGHTS
    demo_vision.put_in(school.model, demo_vision.read(path), str(path))
    figures = examine(school, demo_vision.processor(school.tokenizer), easy_vqa, count, report)
    if out is not None:
        write_text(out / FIGURES, json.dumps(figures, indent=1) + "\n")
    return figures


def _school(settings: Settings, easy_vqa: Path | None, is_fast: bool = True) -> School:
    torch.manual_seed(settings.seed)
    loaded = load("demo", dtype="float32", device="cpu")
    text: Any = loaded.model
    tokenizer = loaded.tokenizer
    words = pages.vocabulary(tokenizer, settings.words)
    language = Language(words, tokenizer, text.get_input_embeddings().weight)
    pictures = Pictures(words, easy_vqa, settings.seed, settings.fonts)
    model: Any = demo_vision.with_eyes(text, tokenizer, demo_vision.TOWER)
    processor = demo_vision.image_processor()
    images = [picture.image for picture in pictures.batch("beginning", _FIRST_LOOK, 0.75)]
    begin(model.model.vision_tower, processor(images, return_tensors="pt")["pixel_values"])
    # To learn through, the text model once more in bfloat16, which is twice as fast.
    teacher = load("demo", dtype="bfloat16", device="cpu").model if is_fast else text
    return School(model, teacher, tokenizer, processor, language, pictures)
