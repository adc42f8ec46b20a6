"""Scenes: coloured shapes, how many there are, and questions about them."""

from __future__ import annotations

from random import Random
from typing import Any

from specdec.bench.toy.picture import Picture
from specdec.loading.demo_vision import PATCH, SIDE

COLOURS = {
    "red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0),
    "teal": (0, 128, 128), "black": (0, 0, 0), "brown": (165, 42, 42), "gray": (128, 128, 128),
}  # fmt: skip
SHAPES = ("circle", "rectangle", "triangle")
NUMBERS = ("none", "one", "two", "three", "four", "five", "six")
TOKENS = (SIDE // PATCH) ** 2
SLOTS = ("all", "n1", "c1", "s1", "n2", "c2", "s2", "end")  # the last tokens of a scene
DESCRIBE = ("Describe the image.", "What is in the image?", "What do you see?")

Group = tuple[int, str, str]  # how many, of which colour and shape


def says(groups: list[Group]) -> tuple[str, ...]:
    """What the tokens of a scene say: a frame, how many in all, and what of."""
    (n1, c1, s1), (n2, c2, s2) = (*groups, (0, "none", "none"))[:2]
    values = (NUMBERS[n1 + n2], NUMBERS[n1], c1, s1, NUMBERS[n2], c2, s2, "")
    frame = [f"scene {i}" for i in range(TOKENS - len(SLOTS))]
    return (*frame, *(f"{slot} {value}" for slot, value in zip(SLOTS, values, strict=True)))


def language() -> dict[str, str]:
    """All that scenes can say, with a word of the model's own that stands near to it."""
    kinds = {"all": NUMBERS, "n": NUMBERS[:4], "c": (*COLOURS, "none"), "s": (*SHAPES, "none")}
    found = {f"scene {i}": "" for i in range(TOKENS - len(SLOTS))} | {"end ": ""}
    for slot in SLOTS[:-1]:
        for value in kinds.get(slot, ()) or kinds[slot[0]]:
            found[f"{slot} {value}"] = "" if value == "none" else value
    return found


def caption(groups: list[Group]) -> str:
    return " and ".join(
        f"{NUMBERS[n]} {colour} {shape}{'s' if n > 1 else ''}" for n, colour, shape in groups
    )


def scene(draw: Random) -> Picture:
    """One to six shapes of one or two kinds, and three questions, the last for all of it."""
    kinds = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    groups: list[Group] = [
        (draw.randint(1, 3), *kind) for kind in draw.sample(kinds, draw.choice((1, 1, 2)))
    ]
    turns = draw.sample(_questions(groups, draw), 2)
    turns.append((draw.choice(DESCRIBE), caption(groups)))
    return Picture(_drawn(groups, draw), says(groups), tuple(turns), "counting")


def _questions(groups: list[Group], draw: Random) -> list[tuple[str, str]]:
    shapes = [shape for _, _, shape in groups]
    colours = [colour for _, colour, _ in groups]
    asked = [("How many shapes are there?", NUMBERS[sum(n for n, _, _ in groups)])]
    for n, colour, shape in groups:
        asked.append((f"How many {colour} {shape}s are there?", NUMBERS[n]))
        if shapes.count(shape) == 1:
            asked.append((f"What color are the {shape}s?", colour))
            asked.append((f"How many {shape}s are there?", NUMBERS[n]))
        if colours.count(colour) == 1:
            asked.append((f"What shape is {colour}?", shape))
    return asked


def _drawn(groups: list[Group], draw: Random) -> Any:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (SIDE, SIDE), tuple(draw.randint(230, 255) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    total = sum(n for n, _, _ in groups)
    cells = draw.sample(range(9), total) if total > 1 else [None]
    things = [(colour, shape) for n, colour, shape in groups for _ in range(n)]
    for cell, (colour, shape) in zip(cells, things, strict=True):
        room = SIDE if cell is None else SIDE // 3
        x, y = (0, 0) if cell is None else (cell % 3 * room, cell // 3 * room)
        least = 24 if cell is None else 22
        width, height = (draw.randint(least, room - 4) for _ in range(2))
        if shape != "rectangle":
            height = width
        left, top = x + draw.randint(1, room - width - 1), y + draw.randint(1, room - height - 1)
        box = (left, top, left + width, top + height)
        ink = tuple(min(255, max(0, c + draw.randint(-8, 8))) for c in COLOURS[colour])
        if shape == "circle":
            pen.ellipse(box, fill=ink)
        elif shape == "rectangle":
            pen.rectangle(box, fill=ink)
        else:
            tip = (left + width / 2, top)
            pen.polygon([tip, (left, top + height), (left + width, top + height)], fill=ink)
    return image
