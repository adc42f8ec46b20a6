"""Kinds of values that a GGUF's keys have beside those of its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specdec.errors import WeightsError

_TEXT, _NUMBER, _YES_NO, _TEXTS, _NUMBERS, _REALS = (
    "a text", "a whole number", "a truth value", "a list of texts", "a list of whole numbers",
    "a list of numbers",
)  # fmt: skip
_KINDS = {
    "general.architecture": _TEXT,
    "general.alignment": _NUMBER,
    "split.no": _NUMBER,
    "split.count": _NUMBER,
    "split.tensors.count": _NUMBER,
    "tokenizer.chat_template": _TEXT,
    "tokenizer.ggml.model": _TEXT,
    "tokenizer.ggml.pre": _TEXT,
    "tokenizer.ggml.tokens": _TEXTS,
    "tokenizer.ggml.merges": _TEXTS,
    "tokenizer.ggml.token_type": _NUMBERS,
    "tokenizer.ggml.scores": _REALS,
    "tokenizer.ggml.remove_extra_whitespaces": _YES_NO,
}


def check_kinds(path: Path, fields: Mapping[str, Any]) -> None:
    """Raise WeightsError for a key whose value is of another kind than its readers expect."""
    for key, value in fields.items():
        kind = _kind_of(key)
        if kind is not None and not _is(value, kind):
            raise WeightsError(f"{path}: {key} is {str(value)[:40]}, and not {kind}: is it whole?")


def _kind_of(key: str) -> str | None:
    if key.startswith("tokenizer.ggml.add_"):
        return _YES_NO
    if key.startswith("tokenizer.ggml.") and key.endswith("_token_id"):
        return _NUMBER
    return _KINDS.get(key)


def _is(value: Any, kind: str) -> bool:
    if kind in (_TEXTS, _NUMBERS, _REALS):
        taken: tuple[type, ...] = {_TEXTS: (str,), _NUMBERS: (int,)}.get(kind, (int, float))
        return isinstance(value, list) and {*map(type, value)} <= set(taken)
    return type(value) is {_TEXT: str, _NUMBER: int, _YES_NO: bool}[kind]
