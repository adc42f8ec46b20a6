"""Settings of a training run of the toy that sees."""

from __future__ import annotations

from dataclasses import dataclass, fields

from specdec.bench.toy.pages import FONTS
from specdec.errors import InvalidArgument, unknown_name


@dataclass(frozen=True)
class Settings:
    """words: how many it learns to read, in which fonts (see `pages.FONTS`).

    Steps, pictures a step and learning rate of each stage: the language of images, the tower that
    speaks it, and the tower by what the text model answers.
    """

    words: int = 1254
    fonts: tuple[str, ...] = ("mono",)
    language_steps: int = 300
    language_batch: int = 8
    language_rate: float = 2e-2
    tower_steps: int = 8000
    tower_batch: int = 16
    tower_rate: float = 1.5e-3
    answer_steps: int = 0
    answer_batch: int = 8
    answer_rate: float = 3e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for font in self.fonts:
            if font not in FONTS:
                raise unknown_name("font", font, FONTS)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                continue
            least = 0 if field.name == "seed" or field.name.endswith("_steps") else 1e-9
            if value < least:
                option = "--" + field.name.replace("_", "-")
                raise InvalidArgument(f"{option} {value}: give a number above 0")
