"""Conversations as batches: ids in which images have their place, and which tokens are answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from specdec.bench.toy.picture import Picture
from specdec.loading.demo_vision import TEMPLATE, image_token_id

NO_ANSWER = -100
END = "<|im_end|>"


class Judged(NamedTuple):
    """loss: cross-entropy of the answers; right: `bool[B, T - 1]`, tokens that are the model's
    first choice, True where nothing is asked; asked: of the same shape."""

    loss: Tensor
    right: Tensor
    asked: Tensor


@dataclass(frozen=True)
class Talk:
    """`B` conversations, padded at the right: ids, attention and labels `int64[B, T]`."""

    ids: Tensor
    mask: Tensor
    labels: Tensor

    def judge(self, text: Any, image_token: int, seen: Tensor) -> Judged:
        """What a causal LM makes of it. seen: `[images, tokens, width]`, what all images of all
        rows are read as, in order."""
        weight = text.get_input_embeddings().weight
        embedded = weight[self.ids].masked_scatter(
            (self.ids == image_token)[..., None], seen.to(weight)
        )
        states = text.model(inputs_embeds=embedded, attention_mask=self.mask).last_hidden_state
        wanted = self.labels[:, 1:]
        asked = wanted != NO_ANSWER
        logits = text.lm_head(states[:, :-1][asked]).float()
        right = torch.ones_like(asked)
        right[asked] = logits.argmax(-1) == wanted[asked]
        return Judged(nn.functional.cross_entropy(logits, wanted[asked]), right, asked)


def talk(pictures: Sequence[Picture], tokenizer: Any, tokens: int) -> Talk:
    """The conversations about pictures of `tokens` tokens each."""
    rows = [_row(picture, tokenizer, tokens) for picture in pictures]
    longest = max(len(ids) for ids, _ in rows)
    padded = torch.zeros((3, len(rows), longest), dtype=torch.long)
    padded[2] = NO_ANSWER
    for i, (ids, labels) in enumerate(rows):
        padded[0, i, : len(ids)] = torch.tensor(ids)
        padded[1, i, : len(ids)] = 1
        padded[2, i, : len(ids)] = torch.tensor(labels)
    return Talk(*padded)


def messages(picture: Picture, turn: int) -> list[dict[str, Any]]:
    """The conversation up to and with the question of a turn about it, counted from 0."""
    said: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for shown in picture.shown:
        parts.append({"type": "image", "image": shown.image})
        for question, answer in shown.turns[: turn + 1 if shown is picture else None]:
            said.append({"role": "user", "content": [*parts, {"type": "text", "text": question}]})
            said.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
            parts = []
    return said[:-1]


def _row(picture: Picture, tokenizer: Any, tokens: int) -> tuple[list[int], list[int]]:
    """Ids and labels; an answer ends with the token that ends a turn."""
    ids: list[int] = []
    labels: list[int] = []
    before = ""
    chat = [*messages(picture, len(picture.turns) - 1), _answer(picture)]
    for end in range(1, len(chat), 2):
        asked = tokenizer.apply_chat_template(
            chat[:end], chat_template=TEMPLATE, add_generation_prompt=True, tokenize=False
        )
        answer = chat[end]["content"][0]["text"] + END
        question = tokenizer(asked[len(before) :], add_special_tokens=False)["input_ids"]
        said = tokenizer(answer, add_special_tokens=False)["input_ids"]
        ids += [*question, *said]
        labels += [*[NO_ANSWER] * len(question), *said]
        before = asked + answer
    image = image_token_id(tokenizer)
    counts = [tokens if token == image else 1 for token in ids]
    return _repeated(ids, counts), _repeated(labels, counts)


def _answer(picture: Picture) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": picture.turns[-1][1]}]}


def _repeated(ids: list[int], counts: list[int]) -> list[int]:
    return [one for one, count in zip(ids, counts, strict=True) for one in [one] * count]
