"""Lessons: what the target reads and writes while a drafter learns, settled by seed and number."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from specdec.drafts.longspec.training.corpus import Corpus
from specdec.drafts.longspec.training.kept_lessons import KeptLessons
from specdec.drafts.longspec.training.questions import follow_up, question
from specdec.drafts.longspec.training.teacher import Lesson, Teacher
from specdec.model.target import Target

LONG_EVERY = 6  # one lesson of so many is a few long texts that the target only reads
_CHAT, _CODE = 0.5, 0.75  # up to here a text is a chat, a source file; the rest is prose
_GOES_ON = 0.3  # share of later turns that ask about the answer before
_TEMPERATURES = (0.0, 0.0, 0.6, 1.0)


class Lessons(KeptLessons[Lesson]):
    """Makes lesson after lesson; number i is the same in every run with this seed.

    A lesson holds `rows` texts of `length` tokens that the target continues by itself, or for
    every LONG_EVERY-th as many tokens in texts of `long` tokens that it only reads.
    """

    def __init__(
        self,
        teacher: Teacher,
        tokenizer: Any,
        corpus: Corpus,
        *,
        seed: int,
        rows: int,
        length: int,
        long: int,
        folder: Path | None = None,
    ) -> None:
        self.teacher, self.tokenizer, self.corpus = teacher, tokenizer, corpus
        self.seed, self.rows, self.length, self.long = seed, rows, length, long
        super().__init__(teacher.target, Lesson, folder)
        self.stop = ends(teacher.target, tokenizer)

    @property
    def settings(self) -> tuple[object, ...]:
        """What decides the lessons, but for the files that are read."""
        return self.seed, self.rows, self.length, self.long, self.teacher.layer

    def make(self, number: int) -> Lesson:
        """Let the teacher work."""
        rng = random.Random(f"{self.seed}/{number}")
        end = self.teacher.target.max_positions
        if number % LONG_EVERY == LONG_EVERY - 1:
            count = max(1, self.rows * self.length // self.long)
            offset = rng.randrange(max(1, end - self.long))
            return self.teacher.read([self._long(rng) for _ in range(count)], offset)
        offset = rng.choice((0, rng.randrange(max(1, end - self.length))))
        temperatures = torch.tensor([rng.choice(_TEMPERATURES) for _ in range(self.rows)])
        feeds = [self._feed(random.Random(rng.random())) for _ in range(self.rows)]
        return self.teacher.continued(feeds, self.length, offset, temperatures, rng, stop=self.stop)

    def _feed(self, rng: random.Random) -> Callable[[], list[int]]:
        """What starts a text of one kind, again and again."""
        draw = rng.random()
        kind = "code" if _CHAT <= draw < _CODE else "prose"
        chats = draw < _CHAT and getattr(self.tokenizer, "chat_template", None)
        first = True

        def feed() -> list[int]:
            nonlocal first
            first, is_first = False, first
            if chats:
                return self._chat(rng, is_first)
            ids = self._ids(self.corpus.passage(rng, kind, 600))
            return ids[: rng.randrange(24, 97)]

        return feed

    def _chat(self, rng: random.Random, is_first: bool) -> list[int]:
        """The start of a chat, or the user's next turn, up to where the model answers."""
        prose = self.corpus.passage(rng, "prose", rng.randrange(200, 600)).strip()
        code = self.corpus.passage(rng, "code", rng.randrange(150, 500)).strip()
        goes_on = not is_first and rng.random() < _GOES_ON
        asked = follow_up(rng) if goes_on else question(rng, prose, code)
        user = {"role": "user", "content": asked}
        text = self.tokenizer.apply_chat_template(
            [user], add_generation_prompt=True, tokenize=False
        )
        return self._ids(text if is_first else "\n" + text)

    def _long(self, rng: random.Random) -> list[int]:
        """A long text of one kind, of several passages if need be."""
        kind = rng.choice(self.corpus.kinds)
        ids: list[int] = []
        while len(ids) < self.long:
            ids += self._ids(self.corpus.passage(rng, kind, 6 * self.long))
        return ids[: self.long]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def ends(target: Target, tokenizer: Any) -> set[int]:
    """The tokens that end an answer."""
    end = target.model.generation_config.eos_token_id
    several = end if isinstance(end, list) else [end]
    return {x for x in (*several, tokenizer.eos_token_id) if isinstance(x, int)}
