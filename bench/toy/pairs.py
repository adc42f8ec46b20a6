"""Pairs: pictures with questions and answers as files, to train a drafter on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

from specdec.bench.toy import pages, scenes
from specdec.bench.toy.picture import Picture
from specdec.bench.toy.settings import Settings
from specdec.errors import InvalidArgument
from specdec.files import write_text

FILE = "pairs.jsonl"
_PAGES = 0.75  # share of pages, whose answers are long
_SEVERAL = 0.3  # share of questions behind more than one image
_MOST = 4  # images of a question


def draw_pairs(
    out: Path, words: tuple[str, ...], count: int, seed: int, report: Callable[[int, int], None]
) -> Path:
    """Write `count` pairs to `out`, images beside a JSONL file, which is returned; the same for the
    same seed.

    Three of four are pages of `words` to read, the others scenes; three of ten stand behind other
    images, and the question is about the last one. `report(done, total)` is told.

    Raises InvalidArgument where `out` holds other pairs, or is a file.
    """
    if out.exists() and (not out.is_dir() or (out / FILE).exists()):
        raise InvalidArgument(f"--out {out} is a file, or holds {FILE}: give a new folder")
    fonts, draw = Settings().fonts, Random(f"pairs {seed}")
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    lines, names = [], []
    for number in range(count):
        report(number, count)
        shown = _picture(words, fonts, draw)
        question, answer = draw.choice([*shown.turns, shown.turns[-1]])  # of scenes: all of it
        name = f"images/{number:05d}.png"
        shown.image.save(out / name)
        names.append(name)
        others = draw.randint(1, _MOST - 1) if draw.random() < _SEVERAL else 0
        before = draw.choices(names[:-1], k=others) if len(names) > 1 else []
        row = {"images": [*before, name], "question": question, "answer": answer}
        lines.append(json.dumps(row))
    write_text(out / FILE, "\n".join(lines) + "\n")
    return out / FILE


def _picture(words: tuple[str, ...], fonts: tuple[str, ...], draw: Random) -> Picture:
    return pages.page(words, draw, fonts) if draw.random() < _PAGES else scenes.scene(draw)
