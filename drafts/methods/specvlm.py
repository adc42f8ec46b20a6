"""`specvlm`: LongSpec's block with images as few entries (SpecVLM, arXiv 2509.11815)."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.drafts.methods.longspec import LongSpecOptions
from specdec.method import option
from specdec.option_kinds import OneOf, Whole


@dataclass(frozen=True)
class SpecVlmOptions(LongSpecOptions):
    """Its `draft_model` is a checkpoint of `specdec train-drafter`, trained with images or not."""

    paper = "2509.11815"
    family = "trained drafter"
    keeps = "the target's keys and values of text, some entries for each image, a window of its own"

    image_branch: str = option(
        "auto", "How an image is made small: one of neighbouring tokens, their mean, learned "
        "mixtures of them, what learned queries see of it, or nothing; `gate` chooses for each "
        "image by the question, and is `auto` where it was trained, else `prune`.",
        OneOf("auto", "gate", "prune", "pool", "convolution", "resampler", "text"),
    )  # fmt: skip
    image_tokens: int | None = option(
        None, "Entries that stand for an image at most; by default as many as the checkpoint was "
        "trained with.", Whole(1, 65536),
    )  # fmt: skip

    path = "specdec.drafts.specvlm.drafter:SpecVlm"
