"""Language: what tokens of an image can say, as vectors that the text model understands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from specdec.bench.toy import pages, scenes

# Where learning begins: what the frames around words and shapes might say in the model's own words.
_PAGE = " Repeat all of these words exactly in order"
_SCENE = (
    " This is a picture with some shapes. Answer the question in one word. If the shape or the"
    " color is in the picture, it is present: yes. If it is not there: no. If the question says"
    " not or no, it is the other way round. Here is how many, which color and which shape:"
)


class Language(nn.Module):
    """A vector for every word: `V` of them, of the text model's width.

    Words of pages are the model's own embeddings and stay so. Blanks, frames, and what is said of
    scenes begin near to words of the model and are learned.
    """

    own: Tensor

    def __init__(self, words: Sequence[str], tokenizer: Any, embedding: Tensor) -> None:
        super().__init__()

        def ids(text: str) -> list[int]:
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])

        said = {word: ids(" " + word) for word in words}
        learned = {pages.BLANK: ids(" ")}
        for i, token in zip(range(pages.PER_LINE), _long(ids(_PAGE)), strict=False):
            learned[f"page {i}"] = [token]
        hints = iter(_long(ids(_SCENE)))
        for name, hint in scenes.language().items():
            learned[name] = ids(" " + hint) if hint else [next(hints)]
        self.place = {name: i for i, name in enumerate((*said, *learned))}
        self.register_buffer("own", _means(embedding, list(said.values())))
        self.learned = nn.Parameter(_means(embedding, list(learned.values())))

    def vectors(self) -> Tensor:
        """`[V, width]`, words of pages first."""
        return torch.cat([self.own, self.learned])

    def numbers(self, says: Sequence[str]) -> list[int]:
        return [self.place[word] for word in says]

    def weights(self) -> Tensor:
        """`[V]`: how much it matters that a token says just this; what many always say, less."""
        frame = [not w.startswith(("page ", "scene ")) and w != pages.BLANK for w in self.place]
        return torch.where(torch.tensor(frame), 1.0, 0.15)


def _long(tokens: list[int]) -> list[int]:
    """As many tokens as an image has, from the beginning again where they end."""
    return (tokens * scenes.TOKENS)[: scenes.TOKENS]


def _means(embedding: Tensor, ids: list[list[int]]) -> Tensor:
    return torch.stack([embedding[torch.tensor(row)].float().mean(0) for row in ids])
