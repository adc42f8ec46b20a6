"""ImageLessons: questions about images and the target's answers, settled by seed and number."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch

from specdec.decoding.prompt_images import ImageReader, with_images
from specdec.drafts.longspec.training.kept_lessons import KeptLessons
from specdec.drafts.longspec.training.lessons import ends
from specdec.drafts.specvlm.training.pairs import Pair
from specdec.drafts.specvlm.training.viewer import ImageLesson, Viewer
from specdec.loading.loader import Loaded
from specdec.sampling.prompt import Prompt

_GIVEN = 0.25  # share of texts that follow the answer of the data, where there is one
_TEMPERATURES = (0.0, 0.0, 0.6, 1.0)


class ImageLessons(KeptLessons[ImageLesson]):
    """Makes lesson after lesson of `rows` pairs each; number i is the same in every run.

    most: tokens of an answer at most.
    """

    def __init__(
        self,
        viewer: Viewer,
        loaded: Loaded,
        pairs: Sequence[Pair],
        *,
        seed: int,
        rows: int,
        most: int,
        folder: Path | None,
    ) -> None:
        super().__init__(viewer.target, ImageLesson, folder)
        self.viewer, self.loaded, self.pairs = viewer, loaded, pairs
        self.reader = ImageReader(loaded.model, loaded.processor)
        self.seed, self.rows, self.most = seed, rows, most
        self.stop = ends(viewer.target, loaded.tokenizer)

    @property
    def settings(self) -> tuple[object, ...]:
        return "images", self.seed, self.rows, self.most, self.viewer.layer

    def make(self, number: int) -> ImageLesson:
        """Let the target answer."""
        rng = random.Random(f"{self.seed}/images/{number}")
        chosen = [rng.choice(self.pairs) for _ in range(self.rows)]
        answers = [self._answer(pair, rng) for pair in chosen]
        temperatures = torch.tensor([rng.choice(_TEMPERATURES) for _ in chosen])
        return self.viewer.answered(
            [self._prompt(pair) for pair in chosen], answers, self.most, temperatures, rng,
            stop=self.stop,
        )  # fmt: skip

    def _prompt(self, pair: Pair) -> Prompt:
        made: Prompt = with_images(pair.messages(), self.reader)
        return made

    def _answer(self, pair: Pair, rng: random.Random) -> list[int] | None:
        """The answer of the data, now and then, as the target would end it; else its own."""
        if pair.answer is None or rng.random() >= _GIVEN:
            return None
        ids = self.loaded.tokenizer(pair.answer, add_special_tokens=False)["input_ids"]
        end = self.loaded.tokenizer.eos_token_id
        return [*ids, end] if end in self.stop else list(ids)
