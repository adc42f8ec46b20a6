"""Pictures: where those of a training run come from, the same for the same seed and step."""

from __future__ import annotations

from pathlib import Path
from random import Random

from specdec.bench.toy import pages, scenes
from specdec.bench.toy.easy_vqa import EasyVqa
from specdec.bench.toy.picture import Picture

HELD_OUT = "held out"  # no step of training is called this


class Pictures:
    """Pages of `words`, scenes, and easy-VQA if there is a wheel of it."""

    def __init__(
        self,
        words: tuple[str, ...],
        wheel: Path | None,
        seed: int,
        fonts: tuple[str, ...] = pages.FONTS,
    ) -> None:
        self.words, self.seed, self.fonts = words, seed, fonts
        self.easy = None if wheel is None else EasyVqa(wheel, "train")

    def batch(self, step: int | str, count: int, share_of_pages: float = 0.5) -> list[Picture]:
        """`count` pictures, pages first; the rest scenes and, in turn, pictures of easy-VQA."""
        draw = Random(f"{self.seed} {step}")
        written = round(count * share_of_pages)
        found = [pages.page(self.words, draw, self.fonts) for _ in range(written)]
        for i in range(count - written):
            found.append(self.easy.lesson(draw) if self.easy and i % 2 else scenes.scene(draw))
        return found
