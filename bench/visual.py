"""Suite `visual`: conversations about pictures that no training has seen, by category."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from specdec.bench.toy import pages, scenes
from specdec.bench.toy.picture import Picture
from specdec.bench.toy.pictures import HELD_OUT
from specdec.bench.toy.settings import Settings
from specdec.bench.toy.talk import messages
from specdec.bench.workloads import Workload

EACH = 8  # conversations of a category
_TOKENS = {"reading": 24, "describing": 12, "counting": 12, "multi-turn": 24, "4 images": 24}


def visual(tokenizer: Any) -> list[Workload]:
    """Reading, describing, counting, a second picture after a first answer, and four at once.

    Categories take turns, so that the first N are a fair sample. Pages hold the words that
    demo-vision has learned, or frequent ones where the tokenizer is of another kind.
    """
    learned = Settings()
    words = pages.vocabulary(tokenizer, learned.words) or pages.frequent(learned.words)
    draw = Random(HELD_OUT)
    found = []
    for number in range(1, EACH + 1):
        page, *others = (pages.page(words, draw, learned.fonts) for _ in range(3))
        scene = scenes.scene(draw)
        asked = {
            "reading": messages(page, 0),
            "describing": messages(_ask(scene, -1), 0),
            "counting": messages(_ask(scene, 0), 0),
            "multi-turn": messages(replace(page, before=(_ask(scene, -1),)), 0),
            "4 images": messages(replace(page, before=_silent(others[0], scene, others[1])), 0),
        }
        answers = {"describing": scene.turns[-1][1], "counting": scene.turns[0][1]}
        found += [
            Workload(
                f"{kind} {number}",
                kind,
                "",
                _TOKENS[kind],
                answers=(answers.get(kind, page.turns[0][1]),),
                conversation=tuple(chat),
            )
            for kind, chat in asked.items()
        ]
    return found


def _ask(scene: Picture, turn: int) -> Picture:
    return replace(scene, turns=(scene.turns[turn],))


def _silent(*shown: Picture) -> tuple[Picture, ...]:
    """Pictures that are shown and not asked about."""
    return tuple(replace(one, turns=()) for one in shown)
