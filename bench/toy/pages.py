"""Pages: pictures of words, and what there is to read."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from specdec.bench.toy.picture import Picture
from specdec.bench.workloads import manual
from specdec.loading.demo_vision import PATCH, SIDE

PER_LINE = SIDE // PATCH  # tokens
LINES = PER_LINE - 1  # the last row of tokens is for the frame, which says what to do with words
BLANK = "no word"
READ = (
    "Read the text.",
    "Read the text in the image.",
    "What does the text say?",
    "What is written here?",
    "Read it out.",
)
FONTS = ("mono", "mono-bold", "sans", "default")
_FILES = {"mono": "DejaVuSansMono", "mono-bold": "DejaVuSansMono-Bold", "sans": "DejaVuSans"}


def vocabulary(tokenizer: Any, count: int) -> tuple[str, ...]:
    """The most frequent plain words of the manual that are one token each, with a space or not."""
    ids, written = tokenizer.get_vocab(), set(re.findall("[a-z]+", manual()))
    known = {
        name[1:]: number
        for name, number in ids.items()
        if re.fullmatch("Ġ(a|[a-z]{2,8})", name) and name[1:] in ids and name[1:] in written
    }
    return tuple(sorted(known, key=known.__getitem__)[:count])


def frequent(count: int) -> tuple[str, ...]:
    """The most frequent short words of the manual, whatever their tokens."""
    found = Counter(re.findall(r"\b[a-z]{2,8}\b", manual()))
    return tuple(word for word, _ in found.most_common(count))


def page(words: tuple[str, ...], draw: Random, fonts: tuple[str, ...] = FONTS) -> Picture:
    """A page of words: half of the pages hold words of a manual in their order, half any words."""
    from PIL import Image, ImageDraw

    style = draw.choice(fonts)
    font = _font(style)
    paper, ink = _colours(draw)
    image = Image.new("RGB", (SIDE, SIDE), paper)
    pen: Any = ImageDraw.Draw(image)
    wanted = iter(_words(words, draw))
    says = [BLANK] * (PER_LINE * LINES)
    text: list[str] = []
    word = next(wanted)
    for line in range(draw.choice((draw.randint(1, LINES), LINES))):
        start = float(draw.randint(0, 1) if style.startswith("mono") else draw.randint(0, 4))
        top = PATCH * line + draw.randint(-1, 1)
        while start + font.getlength(word) <= SIDE + 1:
            place = line * PER_LINE + int(start) // PATCH
            if says[place] == BLANK:
                pen.text((start, top), word, fill=ink, font=font)
                says[place] = word
                text.append(word)
                start += font.getlength(word + " ")
                word = next(wanted)
            else:  # a token says one word: the next one begins further on
                start += 1
    says += [f"page {i}" for i in range(PER_LINE)]
    return Picture(image, tuple(says), ((draw.choice(READ), " ".join(text)),), "reading")


def _words(words: tuple[str, ...], draw: Random) -> list[str]:
    if draw.random() < 0.5:
        return draw.choices(words, k=LINES * PER_LINE + 1)
    told = _told(words)
    start = draw.randrange(len(told) - LINES * PER_LINE - 1)
    return told[start : start + LINES * PER_LINE + 1]


@cache
def _told(words: tuple[str, ...]) -> list[str]:
    """The words of the manual that are among these, in their order."""
    known = set(words)
    return [word for word in re.findall("[a-z]+", manual()) if word in known]


def _colours(draw: Random) -> tuple[tuple[int, ...], tuple[int, ...]]:
    light = tuple(draw.randint(215, 255) for _ in range(3))
    dark = tuple(draw.randint(0, 70) for _ in range(3))
    return (light, dark) if draw.random() < 0.85 else (dark, light)


@cache
def _font(style: str) -> Any:
    """Thirteen pixels: two letters a token where they are of one width."""
    import matplotlib
    from PIL import ImageFont

    if style == "default":
        return ImageFont.load_default(14)
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(
        str(folder / f"{_FILES[style]}.ttf"), 13, layout_engine=ImageFont.Layout.BASIC
    )
