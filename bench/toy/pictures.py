"""Pictures: where those of a training run come from, the same for the same seed and step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

from specdec.bench.toy import pages, scenes
from specdec.bench.toy.easy_vqa import EasyVqa
from specdec.bench.toy.picture import Picture

HELD_OUT = "held out"  # no step of training is called this
_TOGETHER = (1, 1, 1, 1, 2, 3, 4, 16)  # pictures of a row
_EARLIER = 0.3  # share of rows where some of the others were asked about


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

    def conversations(self, step: int | str, count: int) -> list[Picture]:
        """Conversations of about `count` pictures in all, as often about pages as about others.

        Half of the steps have one picture a row, the others 2 to 16, of which the last one is asked
        about; in a part of the rows earlier ones were too.
        """
        draw = Random(f"{self.seed} {step} together")
        images = draw.choice(_TOGETHER)
        if images == 1:
            return self.batch(step, count)
        rows = max(1, count // images)
        share = float(draw.random() < 0.5) if rows == 1 else 0.5
        asked = self.batch(f"{step} asked", rows, share)
        return [replace(one, before=self.others(images - 1, draw, _EARLIER)) for one in asked]

    def others(self, count: int, draw: Random, share_asked: float = 0) -> tuple[Picture, ...]:
        """Pages and scenes, all without turns but for a share of times when half of them have."""
        shown = [self._one(draw) for _ in range(count)]
        is_asked = draw.random() < share_asked
        return tuple(
            replace(one, turns=one.turns[-1:] if is_asked and draw.random() < 0.5 else ())
            for one in shown
        )

    def _one(self, draw: Random) -> Picture:
        if draw.random() < 0.5:
            return pages.page(self.words, draw, self.fonts)
        return scenes.scene(draw)
