"""`specdec train-vision` and `measure-vision`: the toy that sees, made and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specdec.cli import arguments, console
from specdec.progress import progress_bar

EasyVqa = Annotated[
    Path | None, typer.Option(help="Wheel of easy-vqa==1.0, as `pip download --no-deps` gets it.")
]


def train_vision(
    out: Annotated[Path, typer.Option(help="Folder of the run; a run in it is resumed.")],
    easy_vqa: EasyVqa = None,
    words: Annotated[int, typer.Option(help="Most frequent words, to be learned.")] = 1254,
    fonts: Annotated[
        str, typer.Option(help="Of mono, mono-bold, sans, default; separated by commas.")
    ] = "mono",
    language_steps: Annotated[int, typer.Option(help="Of what tokens of images may say.")] = 300,
    tower_steps: Annotated[int, typer.Option(help="Of the tower, without the text model.")] = 8000,
    answer_steps: Annotated[int, typer.Option(help="Of the tower, by the model's answers.")] = 0,
    batch: Annotated[int, typer.Option(help="Pictures of a step of the tower alone.")] = 16,
    answer_batch: Annotated[int, typer.Option(help="Pictures of a step with the model.")] = 8,
    language_rate: Annotated[float, typer.Option(help="Learning rate of the language.")] = 0.02,
    tower_rate: Annotated[float, typer.Option(help="Learning rate of the tower.")] = 0.0015,
    answer_rate: Annotated[float, typer.Option(help="Learning rate by answers.")] = 0.0003,
    seed: arguments.TrainingSeed = 0,
    stop_after: arguments.StopAfter = None,
    as_json: arguments.AsJson = False,
) -> None:
    """Train demo-vision, a toy: a small tower for the demo.

    Pictures are made here: pages of words, shapes to count, and those of easy-VQA.

    \b
    Examples:
      specdec train-vision --out toy
      specdec train-vision --out toy --easy-vqa easy_vqa-1.0-py3-none-any.whl
      specdec measure-vision --out toy --easy-vqa easy_vqa-1.0-py3-none-any.whl
    """
    from specdec.bench.toy.run import train_vision as train
    from specdec.bench.toy.settings import Settings

    settings = Settings(
        words=words,
        fonts=tuple(name.strip() for name in fonts.split(",")),
        language_steps=language_steps,
        language_batch=answer_batch,
        language_rate=language_rate,
        tower_steps=tower_steps,
        tower_batch=batch,
        tower_rate=tower_rate,
        answer_steps=answer_steps,
        answer_batch=answer_batch,
        answer_rate=answer_rate,
        seed=seed,
    )
    last = ""
    with progress_bar("Training", time_left=True) as progress:

        def report(stage: str, step: int, steps: int, row: dict[str, float]) -> None:
            nonlocal last
            told = ", ".join(f"{name} {value:.3f}" for name, value in row.items())
            last = f"{stage} {step}/{steps}: {told}"
            progress(step, steps)

        done = train(out, settings, easy_vqa, stop_after, report)
    if as_json:
        console.print_json({"out": str(out), "done": done, "last": last or None})
    else:
        typer.echo(f"{out}: {last or 'nothing left to train'}{'' if done else '; not done yet'}")


def measure_vision(
    out: Annotated[Path | None, typer.Option(help="Folder of a run; default: what ships.")] = None,
    easy_vqa: EasyVqa = None,
    words: Annotated[int, typer.Option(help="How many words it was to read.")] = 1254,
    count: Annotated[int, typer.Option(min=1, help="Pictures of each kind.")] = 40,
    as_json: arguments.AsJson = False,
) -> None:
    """Measure what demo-vision reads and counts right.

    On pictures that were held out.

    \b
    Examples:
      specdec measure-vision
      specdec measure-vision --out toy --count 200 --json
    """
    from specdec.bench.toy.run import measure_vision as measure

    with progress_bar("Measuring", time_left=True) as progress:
        figures = measure(out, words, easy_vqa, count, progress)
    if as_json:
        console.print_json(figures)
        return
    for name, value in figures.items():
        console.out().print(f"{value:6.3f}  {name}", markup=False)


def draw_pictures(
    out: Annotated[Path, typer.Option(help="New folder of the pairs.")],
    count: Annotated[int, typer.Option(min=2, help="Pairs of images and a question.")] = 1000,
    pages: Annotated[float, typer.Option(help="Share of pages to read, not of shapes.")] = 0.75,
    several: Annotated[float, typer.Option(help="Share of questions with 2 to 16 images.")] = 0.3,
    seed: Annotated[int, typer.Option(help="Same seed: same pictures.")] = 0,
    as_json: arguments.AsJson = False,
) -> None:
    """Draw pictures with questions and answers.

    As those that demo-vision has learned from.

    \b
    Examples:
      specdec draw-pictures --out pictures --count 500
      specdec train-drafter -m demo-vision --images pictures/pairs.jsonl --out d
    """
    from specdec.bench.toy.pages import vocabulary
    from specdec.bench.toy.pairs import draw_pairs
    from specdec.bench.toy.settings import Settings
    from specdec.loading.loader import load

    words = vocabulary(load("demo").tokenizer, Settings().words)
    with progress_bar("Drawing", time_left=True) as progress:
        written = draw_pairs(out, words, count, seed, progress, pages, several)
    if as_json:
        console.print_json({"out": str(written), "pairs": count})
    else:
        typer.echo(f"{written}: {count} pairs")
