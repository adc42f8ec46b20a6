"""Contexts that several questions share, after SCBench (arXiv 2412.10319): string and key-value
retrieval, made of random words. Its own data is on a hub; these are made anew, always alike."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from specdec.bench.methods.answering import MORE, Asked

QUESTIONS = 3
_HEAD = "Here is a list that will be asked about.\n\n"
_SOUNDS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"), "aeiou"


@dataclass(frozen=True)
class SharedContext:
    """A context, and questions about it, each with what its answer must hold.

    Questions end where the answer begins. They are asked one by one, each right behind the context
    (several requests), and in turns, each behind the ones before it and their true answers.
    """

    name: str
    context: list[int]
    questions: tuple[list[int], ...]
    answers: tuple[str, ...]


def shared_contexts(tokenizer: Any, size: int, seed: int = 0) -> list[SharedContext]:
    """One context of each kind, of at most `size` tokens."""
    kinds = {"key-value": _key_value, "string": _string}
    return [_made(tokenizer, name, make, size, seed) for name, make in kinds.items()]


def asked(shared: SharedContext, tokenizer: Any) -> list[Asked]:
    """The questions of a context one by one, and in turns behind their true answers."""
    alone, turns, before = list[Asked](), list[Asked](), list[int]()
    for place, (question, wanted) in enumerate(
        zip(shared.questions, shared.answers, strict=True), 1
    ):
        said = tokenizer(f" {wanted}.", add_special_tokens=False)["input_ids"]
        longest = len(said) + MORE
        alone.append(Asked(f"{shared.name}, question {place}", question, (wanted,), longest))
        behind = [*before, *question]
        turns.append(Asked(f"{shared.name}, turn {place}", behind, (wanted,), longest))
        before = [*behind, *said]
    return [*alone, *turns[1:]]  # the first turn is the first question


def _made(
    tokenizer: Any,
    name: str,
    make: Callable[[random.Random], tuple[str, str, str]],
    size: int,
    seed: int,
) -> SharedContext:
    rng = random.Random(f"{name} {seed}")
    context = list(tokenizer(_HEAD)["input_ids"])
    records: list[tuple[str, str]] = []
    while True:
        line, question, answer = make(rng)
        ids = _ids(tokenizer, line + "\n")
        if len(context) + len(ids) > size:
            break
        context += ids
        records.append((question, answer))
    # from the beginning, the middle and the end of the list
    parts = [len(records) * (2 * i + 1) // (2 * QUESTIONS) for i in range(QUESTIONS)]
    order = [records[part] for part in rng.sample(parts, QUESTIONS)]
    return SharedContext(
        name,
        context,
        tuple(_ids(tokenizer, question) for question, _ in order),
        tuple(answer for _, answer in order),
    )


def _key_value(rng: random.Random) -> tuple[str, str, str]:
    """A record, a question about it, and the answer."""
    key, value = f"{_word(rng)} {_word(rng)}", str(rng.randrange(10_000, 100_000))
    said = f"The number of {key} is"
    return f"{said} {value}.", f"\nQuestion: What is the number of {key}?\nAnswer: {said}", value


def _string(rng: random.Random) -> tuple[str, str, str]:
    """SCBench's prefix-suffix task: a string by its beginning and end."""
    first, middle, last = _word(rng), _word(rng), _word(rng)
    question = (
        f"\nQuestion: Which string begins with {first} and ends with {last}?\n"
        f"Answer: The string is {first}"
    )
    return f"The string is {first}{middle}{last}.", question, middle


def _word(rng: random.Random) -> str:
    return "".join(rng.choice(sounds) for _ in range(2) for sounds in _SOUNDS)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
