"""Stages of a run, each a loss by the number of its step: first a language, then who speaks it.

A frozen text model does not understand an image because a tower is trained: something must say
which vectors it would understand. That costs no tower, and the tower then costs no text model:

1. `Speech`: vectors for all that tokens of images say, by what the text model answers to them.
2. `Sight`: the tower, by which of these vectors its tokens should be.
3. `Answers`: the tower, by what the text model answers to what it sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from specdec.bench.toy.language import Language
from specdec.bench.toy.picture import Picture
from specdec.bench.toy.pictures import Pictures
from specdec.bench.toy.scenes import TOKENS
from specdec.bench.toy.talk import Judged, talk
from specdec.loading.demo_vision import image_token_id

_NOISE = 0.02  # of what is said, as a tower will not say it exactly
# Of squared distances, for a tower: as logits of words, and beside cross-entropy. Words lie at
# squares of 3 to 14 from each other; with 0.5 and 0.1 a tower overshot its words by their length.
_SHARPNESS = 2.0
_NEARNESS = 1.0


@dataclass
class School:
    """What all stages share. model: LLaVA in float32; text: its causal LM in a fast precision."""

    model: Any
    text: Any
    tokenizer: Any
    image_processor: Any
    language: Language
    pictures: Pictures

    def see(self, pictures: list[Picture]) -> Tensor:
        """`[images, tokens, width]`: what tower and projector make of all that is shown."""
        images = [shown.image for picture in pictures for shown in picture.shown]
        pixels = self.image_processor(images, return_tensors="pt")["pixel_values"]
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.is_grad_enabled()):
            seen = self.model.model.get_image_features(pixels).pooler_output
        return torch.stack(list(seen)).float()

    def said(self, pictures: list[Picture]) -> Tensor:
        """`int64[images, tokens]`: what they should say, as words of the language."""
        shown = [one for picture in pictures for one in picture.shown]
        return torch.tensor([self.language.numbers(one.says) for one in shown])

    def answered(self, pictures: list[Picture], seen: Tensor) -> Judged:
        conversation = talk(pictures, self.tokenizer, TOKENS)
        return conversation.judge(self.text, image_token_id(self.tokenizer), seen)


@dataclass(frozen=True)
class Stage:
    """name; steps; rate; what is learned, by name; and the loss of a step with figures of it."""

    name: str
    steps: int
    rate: float
    learned: dict[str, nn.Parameter]
    loss: Callable[[int], tuple[Tensor, dict[str, float]]]


def speech(school: School, steps: int, batch: int, rate: float) -> Stage:
    """The language of images, by the answers to what is said in it."""

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        pictures = school.pictures.conversations(f"language {step}", batch)
        seen = school.language.vectors()[school.said(pictures)]
        noise = torch.randn(seen.shape, generator=torch.Generator().manual_seed(step))
        judged = school.answered(pictures, seen + _NOISE * noise)
        return judged.loss, _answers(judged, pictures)

    return Stage("language", steps, rate, {"learned": school.language.learned}, loss)


def sight(school: School, steps: int, batch: int, rate: float) -> Stage:
    """The tower, by the words of the language."""
    vectors = school.language.vectors().detach()
    weights = school.language.weights()

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        pictures = school.pictures.batch(f"tower {step}", batch, 0.75)
        said, seen = school.said(pictures), school.see(pictures)
        squares = distances(seen, vectors)
        weight = weights[said]
        surprise = nn.functional.cross_entropy(
            -_SHARPNESS * squares.flatten(0, 1), said.flatten(), reduction="none"
        ).view_as(weight)
        away = squares.gather(-1, said[..., None])[..., 0]
        right = squares.argmin(-1) == said
        value = ((surprise + _NEARNESS * away) * weight).sum() / weight.sum()
        return value, _by_kind(right, weight == 1, pictures)

    return Stage("tower", steps, rate, _eyes(school), loss)


def answers(school: School, steps: int, batch: int, rate: float) -> Stage:
    """The tower, by the text model's answers."""

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        pictures = school.pictures.conversations(f"answers {step}", batch)
        judged = school.answered(pictures, school.see(pictures))
        return judged.loss, _answers(judged, pictures)

    return Stage("answers", steps, rate, _eyes(school), loss)


def distances(seen: Tensor, vectors: Tensor) -> Tensor:
    """Squared distances `[B, tokens, V]` of what was seen to all words."""
    with torch.autocast("cpu", torch.bfloat16, enabled=torch.is_grad_enabled()):
        products = seen @ vectors.T
    return seen.square().sum(-1, keepdim=True) - 2 * products.float() + vectors.square().sum(-1)


def _eyes(school: School) -> dict[str, nn.Parameter]:
    inner = school.model.model
    found = {
        f"{part}.{name}": parameter.requires_grad_()
        for part in ("vision_tower", "multi_modal_projector")
        for name, parameter in getattr(inner, part).named_parameters()
    }
    # CLIP's last norm is for its first token, which LLaVA drops
    return {name: x for name, x in found.items() if "post_layernorm" not in name}


def _answers(judged: Judged, pictures: list[Picture]) -> dict[str, float]:
    return _by_kind(judged.right, judged.asked, pictures)


def _by_kind(right: Tensor, asked: Tensor, pictures: list[Picture]) -> dict[str, float]:
    """Which share of tokens is right, of pages and of other pictures."""
    written = torch.tensor([picture.category == "reading" for picture in pictures])[:, None]
    among = {"words": asked & written, "scenes": asked & ~written}
    return {name: float(right[x].float().mean()) for name, x in among.items() if bool(x.any())}
