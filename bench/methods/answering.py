"""Answering: what a view answers when it stands for the target, and whether that is right."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from specdec.bench.views.drafted import DraftedView

LONGEST = 32  # tokens of an answer
MORE = 4  # tokens beyond what is wanted, where an answer has to begin with it


@dataclass(frozen=True)
class Asked:
    """A question behind a walk's text, and what its answer must hold. longest: tokens of it."""

    name: str
    question: list[int]
    wanted: tuple[str, ...]
    longest: int = LONGEST


@dataclass(frozen=True)
class Answer:
    """tokens: of the answer. agreed: share of the full cache's answer that this view, fed it, would
    have chosen too, token for token."""

    tokens: list[int]
    agreed: float


def answer(
    drafted: DraftedView,
    question: Sequence[int],
    ends: Collection[int],
    full: Sequence[int] = (),
    longest: int = LONGEST,
) -> Answer:
    """The greedy answer to a question, up to one of the tokens `ends`, which is part of it, and of
    `longest` tokens at most.

    full: the full cache's own answer; as far as the view would say the same, passes are shared.
    """
    logits = drafted.begin()
    if question:
        logits = drafted.feed(question)[-1]
    choice, found, agreed = int(logits.argmax()), list[int](), 0
    if full:
        rest = drafted.feed(full[:-1]).argmax(-1).tolist() if len(full) > 1 else []
        mine = [choice, *rest]
        same = [a == b for a, b in zip(mine, full, strict=True)]
        agreed, alike = sum(same), (same + [False]).index(False)
        found = list(full[:alike])
        if alike == len(full):
            return Answer(found, 1.0)
        drafted.take_back(len(full) - 1 - alike)
        choice = mine[alike]
    while True:
        found.append(choice)
        if choice in ends or len(found) >= longest:
            return Answer(found, agreed / len(full) if full else 1.0)
        choice = int(drafted.feed([choice])[-1].argmax())


def end_tokens(tokenizer: Any, eos: Collection[int]) -> set[int]:
    """Those that end an answer: the model's own, and what holds a line break."""
    lines = (i for i in range(len(tokenizer)) if "\n" in tokenizer.decode([i]))
    return {*eos, *lines}


def score(tokenizer: Any, tokens: Sequence[int], wanted: Sequence[str]) -> float:
    """The share of what is wanted that an answer holds, as RULER counts it."""
    text = tokenizer.decode(tokens, skip_special_tokens=True).lower()
    return sum(part.lower() in text for part in wanted) / len(wanted)
