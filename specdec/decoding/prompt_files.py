"""Files of prompts: text, a prompt a line, .jsonl and .json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from specdec.errors import InvalidArgument


class Entry(NamedTuple):
    """One prompt of a file, where it stands, and the other fields that stand with it."""

    prompt: str
    where: str
    number: int
    fields: dict[str, Any]


def read_text(file: Path) -> str:
    """A file's text as it stands there, but for a byte order mark; raises InvalidArgument."""
    try:
        return decode(file.read_bytes(), str(file))
    except OSError as error:
        raise InvalidArgument(f"{file} cannot be read: {error.strerror or error}") from error


def decode(data: bytes, name: str) -> str:
    """Bytes of a file or pipe as text, without a byte order mark; raises InvalidArgument."""
    try:
        return data.decode("utf-8").removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "not UTF-8"
        raise InvalidArgument(
            f"{name} cannot be read: it is {kind} (byte 0x{data[error.start]:02x} at place "
            f"{error.start}); convert it to UTF-8"
        ) from None


def read_entries(file: Path) -> list[Entry]:
    """The prompts of a .jsonl or .json file, or of a text file's lines; raises InvalidArgument.

    JSON is an object or a string a line, or one array of them. An object has its prompt in a field
    prompt, text or turns (a list, of which the first counts), the first of these that is there.
    Blank lines are skipped.
    """
    if file.suffix.lower() in (".jsonl", ".json"):
        return [_entry(value, where, number) for value, where, number in _values(file)]
    lines = enumerate(_lines(read_text(file)), start=1)
    return [Entry(line, f"{file} line {n}", n, {}) for n, line in lines if line.strip()]


def _lines(text: str) -> list[str]:
    """The lines as files have them; characters such as U+2028 may stand inside of one."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def _values(file: Path) -> Iterator[tuple[Any, str, int]]:
    """Each JSON value with its place, in words and as a number from 1."""
    text = read_text(file)
    if file.suffix.lower() == ".json":
        try:
            whole = _parse(text, str(file))
        except InvalidArgument:
            if text.lstrip().startswith("["):
                raise
        else:
            values = whole if isinstance(whole, list) else [whole]
            yield from ((value, f"{file} entry {n}", n) for n, value in enumerate(values, start=1))
            return
    for number, line in enumerate(_lines(text), start=1):
        if line.strip():
            where = f"{file} line {number}"
            yield _parse(line, where), where, number


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{where} is not JSON: {error}") from error


def _entry(value: Any, where: str, number: int) -> Entry:
    fields = {"prompt": value} if isinstance(value, str) else value
    if not isinstance(fields, dict):
        raise InvalidArgument(
            f"{where} is a {type(value).__name__}: expected an object with a field prompt, text or "
            "turns"
        )
    name = next((name for name in ("prompt", "text", "turns") if fields.get(name) is not None), "")
    if not name:
        raise InvalidArgument(f"{where} has no text: expected a field prompt, text or turns")
    prompt = fields[name]
    if name == "turns":
        if not isinstance(prompt, list) or not prompt:
            raise InvalidArgument(f"{where}: turns is no list of texts")
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise InvalidArgument(f"{where} has no text: {name} holds a {type(prompt).__name__}")
    if not prompt:
        raise InvalidArgument(f"{where}: {name} is empty")
    return Entry(prompt, where, number, fields)
