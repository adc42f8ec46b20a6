"""Pairs: images and what is asked and said about them, from folders and JSONL files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specdec.errors import InvalidArgument

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
QUESTION = "Describe the image."  # of a caption in a file of text
_KEYS = {"id", "image", "images", "question", "answer", "conversations"}
_EVERY = 20  # one pair of so many is held out


@dataclass(frozen=True)
class Pair:
    """Paths of images, a question about them, and the answer if there is one."""

    images: tuple[Path, ...]
    question: str
    answer: str | None

    def messages(self) -> list[dict[str, Any]]:
        """The question as a chat, behind its images."""
        parts: list[dict[str, Any]] = [{"type": "image", "image": x} for x in self.images]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": self.question}]}]


def gather_pairs(data: Iterable[Path]) -> list[Pair]:
    """All pairs of folders (images, and a .txt of the same name beside each) and of JSONL files.

    A line of JSONL holds `image` or `images`, and `question` and perhaps `answer`; or, as LLaVA's
    data does, `image` and `conversations`, of which the first turn is taken. Paths are of the
    folder that the file is in. Raises InvalidArgument, with the place, for anything else, and for
    images that are not there.
    """
    pairs = [pair for entry in data for pair in _pairs_of(Path(entry))]
    if len(pairs) < 2:
        raise InvalidArgument(
            "--images holds fewer than two pairs of image and text, and one is to be held out"
        )
    return pairs


def split_pairs(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and held-out ones: about one of twenty, by the name of its first image."""
    ranks = [hashlib.sha256(pair.images[0].name.encode()).digest() for pair in pairs]
    held = {rank for rank in ranks if rank[0] % _EVERY == 0}
    if not held or len(held) == len(set(ranks)):
        held = {min(ranks)}
    if len(set(ranks)) < 2:
        raise InvalidArgument("--images: all pairs are about one image, and another is needed")
    kept = [pair for pair, rank in zip(pairs, ranks, strict=True) if rank not in held]
    return kept, [pair for pair, rank in zip(pairs, ranks, strict=True) if rank in held]


def _pairs_of(entry: Path) -> list[Pair]:
    if entry.is_dir():
        found = [_captioned(path) for path in sorted(entry.rglob("*")) if path.suffix in IMAGES]
        if not found:
            lines = sorted(entry.glob("*.jsonl"))
            hint = f": give {lines[0]}" if lines else ""
            raise InvalidArgument(f"--images {entry}: there are no images with texts in it{hint}")
        return found
    if not entry.is_file():
        raise InvalidArgument(f"--images {entry}: there is no such file or folder")
    try:
        lines_of = entry.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"--images {entry} cannot be read ({error})") from error
    return [
        _read(line, entry, f"--images {entry}, line {number}")
        for number, line in enumerate(lines_of, 1)
        if line.strip()
    ]


def _captioned(path: Path) -> Pair:
    text = path.with_suffix(".txt")
    if not text.is_file():
        raise InvalidArgument(f"--images {path} has no text: write it to {text.name} beside it")
    return Pair((path,), QUESTION, text.read_text("utf-8").strip())


def _read(line: str, source: Path, place: str) -> Pair:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidArgument(f"{place} is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise InvalidArgument(f"{place} is no object: give image, question and answer")
    if unknown := sorted(row.keys() - _KEYS):
        raise InvalidArgument(
            f"{place} holds {unknown[0]!r}, which is not understood: known are "
            f"{', '.join(sorted(_KEYS))}"
        )
    given = row.get("images", row.get("image"))
    names = given if isinstance(given, list) else [given]
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidArgument(f"{place}: give image, a path, or images, a list of such")
    paths = tuple(source.parent / str(name) for name in names)
    for path in paths:
        if not path.is_file():
            raise InvalidArgument(f"{place}: there is no image {path}")
    question, answer = _turn(row, place)
    return Pair(paths, question, answer)


def _turn(row: dict[str, Any], place: str) -> tuple[str, str | None]:
    """The question and the answer of a line."""
    if "conversations" not in row:
        question, answer = row.get("question", QUESTION), row.get("answer")
    else:
        try:
            first, second = row["conversations"][:2]
            question, answer = first["value"].replace("<image>", "").strip(), second["value"]
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InvalidArgument(
                f"{place}: conversations are no list of turns with from and value"
            ) from error
    if not isinstance(question, str) or not isinstance(answer, str | None):
        raise InvalidArgument(f"{place}: question and answer are not text")
    return question, answer
