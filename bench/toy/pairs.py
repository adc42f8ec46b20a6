"""Pairs: pictures with questions and answers as files, to train a drafter on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

from specdec.bench.toy import pages, scenes
from specdec.bench.toy.settings import Settings
from specdec.errors import InvalidArgument
from specdec.files import write_text

FILE = "pairs.jsonl"
_OTHERS = (1, 2, 3, 7, 15)  # images before the one that is asked about


def draw_pairs(
    out: Path, words: tuple[str, ...], count: int, seed: int, report: Callable[[int, int], None],
    pages_share: float = 0.75, several: float = 0.3,
) -> Path:  # fmt: skip
    """Write `count` pairs to `out`, images beside a JSONL file, which is returned; the same for the
    same seed.

    pages_share: of pages of `words` to read, the others are scenes; several: share of questions
    about the last one of 2 to 16 images. `report(done, total)` is told.

    Raises InvalidArgument where `out` holds other pairs, or is a file, or for other shares.
    """
    for name, share in (("--pages", pages_share), ("--several", several)):
        if not 0 <= share <= 1:
            raise InvalidArgument(f"{name} {share}: give a share from 0 to 1")
    if out.exists() and (not out.is_dir() or (out / FILE).exists()):
        raise InvalidArgument(f"--out {out} is a file, or holds {FILE}: give a new folder")
    fonts, draw = Settings().fonts, Random(f"pairs {seed}")
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    lines, names = [], []
    for number in range(count):
        report(number, count)
        is_page = draw.random() < pages_share
        shown = pages.page(words, draw, fonts) if is_page else scenes.scene(draw)
        question, answer = draw.choice([*shown.turns, shown.turns[-1]])  # of scenes: all of it
        name = f"images/{number:05d}.png"
        shown.image.save(out / name)
        names.append(name)
        others = draw.choice(_OTHERS) if draw.random() < several else 0
        before = draw.choices(names[:-1], k=others) if len(names) > 1 else []
        row = {"images": [*before, name], "question": question, "answer": answer}
        lines.append(json.dumps(row))
    write_text(out / FILE, "\n".join(lines) + "\n")
    return out / FILE
