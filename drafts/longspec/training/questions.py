"""Questions for a chat model: forms times topics, so that the target has something to answer."""

from __future__ import annotations

import random
from collections.abc import Callable

from specdec.drafts.longspec.training import question_forms as forms


def question(rng: random.Random, prose: str, code: str) -> str:
    """One question of some kind; some kinds ask about a passage of `prose` or `code`."""
    kinds, shares = zip(*_KINDS, strict=True)
    made: str = rng.choices(kinds, shares)[0](rng, prose, code)
    return made


def follow_up(rng: random.Random) -> str:
    """What a user asks after an answer."""
    return _draw(rng, forms.FOLLOW_UPS)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.replace("\n", ";").split(";") if item.strip()]


def _draw(rng: random.Random, text: str) -> str:
    return rng.choice(_lines(text))


def _about_topics(form: str, rng: random.Random) -> str:
    return form.format(*rng.sample(_items(forms.TOPICS), form.count("{}")))


def _general(rng: random.Random, prose: str, code: str) -> str:
    return _about_topics(_draw(rng, forms.FORMS), rng)


def _fact(rng: random.Random, prose: str, code: str) -> str:
    return _about_topics(_draw(rng, forms.FACTS), rng)


def _writing(rng: random.Random, prose: str, code: str) -> str:
    person, other = rng.sample(_items(forms.PERSONS), 2)
    topic, second = rng.sample(_items(forms.TOPICS), 2)
    place = rng.choice(_items(forms.PLACES))
    return _draw(rng, forms.WRITING).format(
        person=person, other=other, topic=topic, second=second, place=place
    )


def _problem(rng: random.Random, prose: str, code: str) -> str:
    first, second, third = rng.sample(_items(forms.NAMES), 3)
    small = rng.sample(range(2, 13), 4)
    scale = rng.choice((1, 1, 5, 10, 25))
    form = _draw(rng, forms.PROBLEMS if rng.random() < 0.85 else forms.PUZZLES)
    return form.format(
        A=first, B=second, C=third, thing=rng.choice(_items(forms.THINGS)),
        place=rng.choice(_items(forms.PLACES)), other=rng.choice(_items(forms.PERSONS)),
        a=small[0] * scale + rng.randrange(30), b=small[1], c=small[2], d=small[3],
        p=rng.randrange(5, 80, 5), s=20 * rng.randrange(5, 60),
    )  # fmt: skip


def _translation(rng: random.Random, prose: str, code: str) -> str:
    return _draw(rng, forms.SENTENCES)


def _programming(rng: random.Random, prose: str, code: str) -> str:
    return _draw(rng, forms.TASKS).format(rng.choice(_items(forms.JOBS)))


def _about_text(rng: random.Random, prose: str, code: str) -> str:
    if rng.random() < 0.5:
        return f"{_draw(rng, forms.ABOUT_TEXT)}\n\n{prose}"
    topic = rng.choice(_items(forms.TOPICS))
    return _draw(rng, forms.WITH_TEXT).format(text=prose, topic=topic, gap="\n\n")


def _about_code(rng: random.Random, prose: str, code: str) -> str:
    return f"{_draw(rng, forms.ABOUT_CODE)}\n\n{code}"


_KINDS: tuple[tuple[Callable[[random.Random, str, str], str], float], ...] = (
    (_general, 0.26),
    (_writing, 0.12),
    (_fact, 0.1),
    (_problem, 0.16),
    (_translation, 0.04),
    (_programming, 0.1),
    (_about_text, 0.15),
    (_about_code, 0.07),
)
