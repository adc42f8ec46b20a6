"""Examine: what the toy reads, counts and answers right, on pictures held out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path
from random import Random
from typing import Any

import torch

from specdec.bench.toy import pages, scenes
from specdec.bench.toy.easy_vqa import EasyVqa
from specdec.bench.toy.picture import Picture
from specdec.bench.toy.pictures import HELD_OUT
from specdec.bench.toy.stages import School, distances
from specdec.bench.toy.talk import messages

_TOGETHER = 8  # pictures of a pass
_BEFORE = (3, 15)  # pictures before a page that is to be read


@torch.inference_mode()
def examine(
    school: School, processor: Any, wheel: Path | None, count: int, report: Any = None
) -> dict[str, float]:
    """Figures between 0 and 1, of `count` pictures a kind; `report(done, total)` is told.

    reading by font, words and characters: as `generate` of transformers reads them out; seen: words
    whose nearest vector is right, which needs no text model. counting, colours, describing and
    easy-VQA: answers that are right to the last token. majority: what one gets who always gives the
    most frequent answer. behind N: words read out of a page behind so many other pictures.
    """
    draw = Random(HELD_OUT)
    figures: dict[str, float] = {}
    kinds = [*pages.FONTS, "scenes", "easy-vqa"]
    for number, kind in enumerate(kinds):
        if report is not None:
            report(number, len(kinds))
        if kind in pages.FONTS:
            words = school.pictures.words
            written = [pages.page(words, draw, (kind,)) for _ in range(count)]
            figures |= {f"{k}, {kind}": x for k, x in _reading(school, processor, written).items()}
        elif kind == "scenes":
            figures |= {f"words, behind {n}": _behind(school, processor, n, count) for n in _BEFORE}
            shown = [scenes.scene(draw) for _ in range(count)]
            figures |= _questions(school, [one for x in shown for one in _apart(x)])
        elif wheel is not None:
            easy = EasyVqa(wheel, "test")
            asked = [one for _ in range(count) for one in _apart(easy.picture(draw))]
            figures |= _questions(school, asked)
    return figures


def _behind(school: School, processor: Any, pictures: int, count: int) -> float:
    """The share of words that are read out behind other pictures."""
    draw, right, total = Random(f"{HELD_OUT} {pictures}"), 0, 0
    for _ in range(count):
        page = pages.page(school.pictures.words, draw, school.pictures.fonts)
        page = replace(page, before=school.pictures.others(pictures, draw))
        answer = page.turns[0][1]
        read = generate(school.model, processor, messages(page, 0), len(answer))
        right += _alike(answer.split(), read.split())
        total += len(answer.split())
    return right / total


def _reading(school: School, processor: Any, written: list[Picture]) -> dict[str, float]:
    seen, places, words, characters, total, length = 0, 0, 0, 0, 0, 0
    vectors = school.language.own
    for picture in written:
        near = distances(school.see([picture]), vectors)[0].argmin(-1).tolist()
        for one, said in zip(near, picture.says, strict=True):
            if said in school.pictures.words:
                places += 1
                seen += one == school.language.place[said]
        answer = picture.turns[0][1]
        read = generate(school.model, processor, messages(picture, 0), len(answer))
        words += _alike(answer.split(), read.split())
        characters += _alike(answer, read)
        total += len(answer.split())
        length += len(answer)
    return {"seen": seen / places, "words": words / total, "characters": characters / length}


def generate(model: Any, processor: Any, chat: list[dict[str, Any]], most: int) -> str:
    """What transformers' own `generate` writes, greedily, in at most `most` tokens."""
    given = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    written = model.generate(**given, max_new_tokens=most, do_sample=False)
    text = processor.tokenizer.decode(
        written[0, given["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return str(text)


def _alike(wanted: Any, found: Any) -> int:
    """How many words or characters stand in both, in order."""
    matcher = SequenceMatcher(None, wanted, found, autojunk=False)
    return sum(block.size for block in matcher.get_matching_blocks())


def _apart(picture: Picture) -> list[Picture]:
    """A picture for each of its questions."""
    return [
        Picture(picture.image, picture.says, (turn,), _category(picture, turn[0]))
        for turn in picture.turns
    ]


def _category(picture: Picture, question: str) -> str:
    if picture.category != "counting":
        return picture.category
    if question in scenes.DESCRIBE:
        return "describing"
    return "counting" if question.startswith("How many") else "colours and shapes"


def _questions(school: School, asked: list[Picture]) -> dict[str, float]:
    right: Counter[str] = Counter()
    given: dict[str, Counter[str]] = {}
    for start in range(0, len(asked), _TOGETHER):
        some = asked[start : start + _TOGETHER]
        judged = school.answered(some, school.see(some))
        for picture, whole in zip(some, judged.right.all(-1).tolist(), strict=True):
            right[picture.category] += whole
            given.setdefault(picture.category, Counter())[picture.turns[0][1]] += 1
    figures: dict[str, float] = {}
    for category, answers in given.items():
        figures[category] = right[category] / answers.total()
        figures[f"{category}, majority"] = max(answers.values()) / answers.total()
    return figures
