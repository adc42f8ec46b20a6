"""Settings of a training run with images."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.drafts.longspec.training.settings import Settings
from specdec.drafts.specvlm.compressor import BRANCHES
from specdec.errors import InvalidArgument, unknown_name


@dataclass(frozen=True)
class ImageSettings(Settings):
    """As `Settings`, by default with the loss of SpecVLM (arXiv 2509.11815): 0.1 times
    cross-entropy on the target's distribution and 1.0 times smooth-L1 on its hidden states.

    text_steps: steps on text alone; from then on the share of steps on images rises from
        `image_start` to all at the last step, as in MSD (arXiv 2505.14260), where it starts at 0.
    first_image_lessons: lessons with images before the first step; the start is solved from them,
        too.
    image_rows, answer_tokens: pairs of a lesson with images, and the longest answer of one.
    steps_per_image_lesson: steps on images after which the target makes a new one.
    image_tokens: entries that stand for an image at most. stride, queries: of the convolution and
        the resampler.
    favourite: a branch that reads half of the texts with images; "" for none. Of the others, half
        are read through the gate, and the rest by each branch alike, or whole.
    """

    logits_weight: float = 0.1
    hidden_weight: float = 1.0
    text_steps: int = 200
    image_start: float = 0.0
    first_image_lessons: int = 2
    image_rows: int = 16
    answer_tokens: int = 48
    steps_per_image_lesson: int = 8
    image_tokens: int = 16
    stride: int = 4
    queries: int = 2
    favourite: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "first_image_lessons", "image_rows", "answer_tokens", "steps_per_image_lesson",
            "image_tokens", "stride", "queries",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name}={getattr(self, name)} is too small: give 1 or more")
        if not 0 <= self.text_steps < self.steps:
            raise InvalidArgument(
                f"text_steps={self.text_steps} of steps={self.steps}: give 0 or more, and fewer "
                "than there are steps in all"
            )
        if self.favourite and self.favourite not in BRANCHES:
            raise unknown_name("branch", self.favourite, BRANCHES)
        if not 0 <= self.image_start <= 1:
            raise InvalidArgument(f"image_start={self.image_start}: give a share from 0 to 1")
        if self.answer_tokens <= self.max_lag:
            raise InvalidArgument(
                f"answer_tokens={self.answer_tokens} is too short for max_lag={self.max_lag}"
            )

    def image_share(self, step: int) -> float:
        """The share of images at a step."""
        done = (step + 1 - self.text_steps) / (self.steps - self.text_steps)
        return self.image_start + (1 - self.image_start) * done if done > 0 else 0.0

    def image_steps(self, step: int) -> float:
        """How many steps on images are to be expected before a step."""
        ramp = max(0, step - self.text_steps)
        rising = ramp * (ramp + 1) / 2 / (self.steps - self.text_steps)
        return self.image_start * ramp + (1 - self.image_start) * rising
