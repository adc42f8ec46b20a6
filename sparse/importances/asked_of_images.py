"""asked_of_images: what the question behind the images looks at."""

from __future__ import annotations

from torch import Tensor

from specdec.forward.prompt_queries import Queries
from specdec.sparse.text import Text

QUESTION = 32  # last tokens of a prompt that are taken for its question


def question(text: Text) -> Queries | None:
    """The queries of the prompt's end that are of text; None where none were kept."""
    if text.window is None:
        return None
    at = text.window.at.to(text.device)
    images = text.images
    inside = at.clamp(max=len(images) - 1)
    mine = (~images[inside] | (at >= len(images))).to(text.window.at.device)
    asked = text.window.only(mine) if bool(mine.any()) else text.window
    return asked.last(QUESTION)


def attention_of_question(text: Text) -> Tensor | None:
    """`[S]`: the attention that the question pays to each token, mean over its queries and all
    heads of the layer."""
    asked = question(text)
    return None if asked is None else text.attention(asked).mean(dim=(0, 1, 2))


def ranked(text: Text, attention: Tensor, images: Tensor, heads: int) -> Tensor:
    """Scores `[Hkv, S]`: text by its attention, from 4 on, and image tokens by `images: [S]`, which
    are below 3."""
    share = attention / attention.max().clamp_min(1e-300)
    scores = share.new_zeros(text.length).add_(share).add_(4)
    made = scores.where(~text.images, images.to(scores))
    return made.expand(heads, -1).contiguous()
