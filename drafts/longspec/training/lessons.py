"""Lessons: what the target reads and writes while a drafter learns, settled by seed and number."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from specdec.drafts.longspec.checkpoint import describe
from specdec.drafts.longspec.training.corpus import Corpus
from specdec.drafts.longspec.training.questions import follow_up, question
from specdec.drafts.longspec.training.teacher import Lesson, Teacher
from specdec.errors import InvalidArgument
from specdec.files import replacing

KIND = "specdec lesson"

LONG_EVERY = 6  # one lesson of so many is a few long texts that the target only reads
_CHAT, _CODE = 0.5, 0.75  # up to here a text is a chat, a source file; the rest is prose
_GOES_ON = 0.3  # share of later turns that ask about the answer before
_TEMPERATURES = (0.0, 0.0, 0.6, 1.0)


class Lessons:
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
        self.folder = folder
        self._ours: set[int] = set()
        end = teacher.target.model.generation_config.eos_token_id
        ends = end if isinstance(end, list) else [end]
        self.stop = {x for x in (*ends, tokenizer.eos_token_id) if isinstance(x, int)}

    def __call__(self, number: int) -> Lesson:
        """Lesson `number`, from the folder if it is there."""
        if self.folder is None:
            return self.make(number)
        path = self.folder / f"{number:05d}.safetensors"
        lesson = self._kept(path)
        if lesson is None:
            lesson = self.make(number)
            with replacing(path) as unfinished:
                tensors = {k: v.contiguous() for k, v in vars(lesson).items()}
                save_file(tensors, unfinished, {"kind": KIND, "about": self._about})
        self._ours.add(number)
        return lesson

    def _kept(self, path: Path) -> Lesson | None:
        """The lesson in a file; None if there is none, or one of other settings or another target.

        Raises InvalidArgument for a file that is no lesson.
        """
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("kind") == KIND and metadata.get("about") != self._about:
                    return None
                if metadata.get("kind") == KIND:
                    names = [field.name for field in fields(Lesson)]
                    return Lesson(**{name: file.get_tensor(name) for name in names})
        except (OSError, SafetensorError) as error:
            raise InvalidArgument(f"{path} cannot be read ({error}): remove it") from error
        raise InvalidArgument(
            f"{path} is no lesson of this release: give another --out, or remove that folder"
        )

    @cached_property
    def _about(self) -> str:
        """What decides the lessons, but for the files that are read."""
        about = self.seed, self.rows, self.length, self.long, describe(self.teacher.target)
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def forget(self, number: int) -> None:
        """Remove a lesson that this run has read or written from the folder."""
        if self.folder is not None and number in self._ours:
            (self.folder / f"{number:05d}.safetensors").unlink(missing_ok=True)

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
