"""Passkeys: a text in which random passkeys are hidden, and asked for at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

COUNT = 10  # passkeys: DuoAttention's data
NAME = 4  # tokens by which one is asked for
VALUE = 28  # tokens behind them, which are the answer: with the name 32, as in DuoAttention's data


@dataclass(frozen=True)
class Passkeys:
    """tokens: the text, all questions with their answers at its end. spans: where each passkey's
    value stands in it; answers: for each, the positions from which its tokens are foretold."""

    tokens: list[int]
    spans: list[tuple[int, int]]
    answers: list[range]

    @property
    def first_question(self) -> int:
        """Where the questions begin."""
        return min(r.start for r in self.answers) - NAME + 1

    @classmethod
    def hidden_in(
        cls, text: Sequence[int], vocab_size: int, length: int, seed: int = 0
    ) -> Passkeys:
        """`length` tokens in all: `text`, again and again if it is short, with passkeys of random
        tokens evenly spaced in it; each is asked for by its name and then given."""
        draw = Random(seed)
        size = NAME + VALUE
        count = max(1, min(COUNT, length // (4 * size)))  # at least half of it is other text
        keys = [[draw.randrange(vocab_size) for _ in range(size)] for _ in range(count)]
        room = length - 2 * count * size
        filler = [text[i % len(text)] for i in range(max(0, room))]
        tokens: list[int] = []
        spans = []
        for i, key in enumerate(keys):
            tokens += filler[i * room // count : (i + 1) * room // count]
            spans.append((len(tokens) + NAME, len(tokens) + size))
            tokens += key
        answers = []
        for key in keys:
            start = len(tokens) + NAME - 1
            answers.append(range(start, start + VALUE))
            tokens += key
        return cls(tokens, spans, answers)
