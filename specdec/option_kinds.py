"""Kinds of options: what a value may be, and how it is read from the text of a command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from specdec.errors import InvalidArgument


class Kind(Protocol):
    """What the values of an option have in common."""

    @property
    def metavar(self) -> str:
        """What stands for a value in help."""

    @property
    def hint(self) -> str:
        """The type of a value, as it is annotated."""

    def check(self, name: str, value: Any) -> Any:
        """The value as it is kept. Raises InvalidArgument, with `name=`, for one that is none."""

    def parse(self, text: str) -> Any:
        """A value out of text; what cannot be read is left as it is, for `check` to refuse."""


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`."""

    low: int = 1
    high: int = 255
    metavar: str = "N"
    hint: str = "int"

    def check(self, name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidArgument(f"{name}={value!r} is not a whole number")
        if not self.low <= value <= self.high:
            raise InvalidArgument(f"{name}={value} is out of range: give {self.low} to {self.high}")
        return value

    def parse(self, text: str) -> Any:
        return _number(int, text)


@dataclass(frozen=True)
class Tokens:
    """A number of tokens, 0 included."""

    metavar: str = "TOKENS"
    hint: str = "int"

    def check(self, name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InvalidArgument(f"{name}={value!r} is not a number of tokens")
        return value

    def parse(self, text: str) -> Any:
        return _number(int, text)


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`, which itself is among them only if `closed`."""

    low: float = 0.0
    high: float = 1.0
    closed: bool = True
    metavar: str = "X"
    hint: str = "float"

    def check(self, name: str, value: Any) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not (
            self.low <= value < self.high or (self.closed and value == self.high)
        ):
            bounds = f"[{self.low:g}, {self.high:g}{']' if self.closed else ')'}"
            raise InvalidArgument(f"{name}={value!r} is outside {bounds}")
        return float(value)

    def parse(self, text: str) -> Any:
        return _number(float, text)


@dataclass(frozen=True)
class Flag:
    """True or False."""

    metavar: str = "true|false"
    hint: str = "bool"

    def check(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise InvalidArgument(f"{name}={value!r}: give True or False")
        return value

    def parse(self, text: str) -> Any:
        return {"true": True, "false": False}.get(text.lower(), text)


class OneOf:
    """One of a few words or numbers."""

    def __init__(self, *values: str | int, unit: str = "") -> None:
        self.values, self.unit = values, unit

    @property
    def metavar(self) -> str:
        return "|".join(map(str, self.values))

    @property
    def hint(self) -> str:
        return " | ".join(dict.fromkeys(type(value).__name__ for value in self.values))

    def check(self, name: str, value: Any) -> str | int:
        for known in self.values:
            if value == known and type(value) is type(known):
                return known
        listed = ", ".join(repr(v) for v in self.values[:-1]) + f" or {self.values[-1]!r}"
        raise InvalidArgument(f"{name}={value!r}: give {listed}{self.unit and ' ' + self.unit}")

    def parse(self, text: str) -> Any:
        return next((value for value in self.values if str(value) == text), text)


@dataclass(frozen=True)
class Rounds:
    """When something is done anew: one of some `words`, or a number of rounds."""

    words: tuple[str, ...]
    hint: str = "str | int"

    @property
    def metavar(self) -> str:
        return "|".join((*self.words, "N"))

    def check(self, name: str, value: Any) -> str | int:
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if value in self.words or is_count:
            found: str | int = value
            return found
        raise InvalidArgument(f"{name}={value!r}: give {self.words} or a number of rounds")

    def parse(self, text: str) -> Any:
        return int(text) if text.isdecimal() else text


@dataclass(frozen=True)
class Layers:
    """Numbers of layers, each once and in order. A `LayerRule` is one already."""

    metavar: str = "N,N,.."
    hint: str = "Sequence[int]"

    def check(self, name: str, value: Any) -> tuple[int, ...] | LayerRule:
        if isinstance(value, LayerRule):
            return value
        if not isinstance(value, (tuple, list)) or not all(type(n) is int for n in value):
            raise InvalidArgument(f"{name}={value!r}: give layer numbers, as in (2, 10, 20)")
        return tuple(sorted(set(value)))

    def parse(self, text: str) -> Any:
        if text == "none":
            return ()
        try:
            return tuple(int(layer) for layer in text.split(",") if layer.strip())
        except ValueError:
            return text


class LayerRule:
    """Layers as a default: which they are depends on the model. Its `str` says it in help."""

    def of(self, layer_types: Sequence[str]) -> tuple[int, ...]:
        """The layers of a model with these types of layers."""
        raise NotImplementedError


@dataclass(frozen=True)
class Levels:
    """The nodes of each level of a tree, as "4-16-16" or a sequence of numbers."""

    metavar: str = "N-N-.."
    hint: str = "str | Sequence[int]"

    def check(self, name: str, value: Any) -> tuple[int, ...]:
        parts = value.split("-") if isinstance(value, str) else value
        try:
            levels = tuple(int(part) for part in parts)
        except (TypeError, ValueError):
            levels = ()
        if not levels or not all(1 <= width <= 255 for width in levels) or sum(levels) > 255:
            raise InvalidArgument(
                f"{name}={value!r}: give the nodes of each level, such as 4-16-16-16-16, at most "
                "255"
            )
        return levels

    def parse(self, text: str) -> Any:
        return text


@dataclass(frozen=True)
class Anything:
    """A name, a path or an object: whoever uses it says what it may be."""

    metavar: str = "TEXT"
    hint: str = "Any"

    def check(self, name: str, value: Any) -> Any:
        return value

    def parse(self, text: str) -> Any:
        return text


def _number(kind: type, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        return text
