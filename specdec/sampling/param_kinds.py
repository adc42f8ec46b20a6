"""What sampling settings may hold where they are no numbers: ids, words, texts, functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import inf, isnan
from typing import Any

from specdec.errors import InvalidArgument

_WIDEST = 1 << 63  # what PyTorch's whole numbers end at


def check_kinds(params: Any) -> None:
    """Raise InvalidArgument, by name, for a SamplingParams field whose value is of another kind."""
    for name, check in _CHECKS.items():
        value = getattr(params, name, None)
        if value is not None:
            check(name, value)


def _ids(name: str, value: Any) -> None:
    if not _is_list(value) or not all(map(_is_id, value)):
        raise InvalidArgument(f"{name}={value!r}: give a list of token ids, as in [1, 2]")


def _id_or_ids(name: str, value: Any) -> None:
    if not _is_id(value):
        _ids(name, value)


def _words(name: str, value: Any) -> None:
    if not _is_list(value) or not value or not all(map(_is_word, value)):
        raise InvalidArgument(
            f"{name}={value!r}: give a list of words, each a list of token ids, as in [[1, 2], [3]]"
        )


def _bias_of_ids(name: str, value: Any) -> None:
    if not isinstance(value, Mapping) or not all(_is_id(token) for token in value):
        raise InvalidArgument(f"{name}={value!r}: give a dict of token ids, as in {{5: -1.5}}")
    _biases(name, list(value.values()))


def _bias_of_words(name: str, value: Any) -> None:
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if (
        not _is_list(pairs)
        or not pairs
        or not all(_is_list(pair) and len(pair) == 2 and _is_word(pair[0]) for pair in pairs)
    ):
        raise InvalidArgument(
            f"{name}={value!r}: give a dict of words, each a tuple of token ids, as in "
            "{(1, 2): -1.5}, or a list of such pairs"
        )
    _biases(name, [bias for _, bias in pairs])


def _biases(name: str, values: list[Any]) -> None:
    for value in values:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or isnan(value) or value == inf:
            raise InvalidArgument(f"{name} adds {value!r} to a logit: give a number, or -inf")


def _texts(name: str, value: Any) -> None:
    if not isinstance(value, str) and not (
        _is_list(value) and all(isinstance(text, str) for text in value)
    ):
        raise InvalidArgument(f"{name}={value!r}: give a text or a list of texts")


def _functions(name: str, value: Any) -> None:
    if not _is_list(value) or not all(map(callable, value)):
        raise InvalidArgument(f"{name}={value!r}: give a list of functions or objects to call")


def _function(name: str, value: Any) -> None:
    if not callable(value):
        raise InvalidArgument(f"{name}={value!r}: give a function")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_WIDEST <= value < _WIDEST


def _is_word(value: Any) -> bool:
    return _is_list(value) and bool(value) and all(map(_is_id, value))


def _is_list(value: Any) -> bool:
    """Whether a value holds others in a way that is no text, and no table."""
    return isinstance(value, Collection) and not isinstance(value, (str, bytes, bytearray, Mapping))


_CHECKS = {
    "eos_token_id": _id_or_ids,
    "stop_token_ids": _id_or_ids,
    "suppress_tokens": _ids,
    "bad_words_ids": _words,
    "logit_bias": _bias_of_ids,
    "sequence_bias": _bias_of_words,
    "stop_strings": _texts,
    "logits_processor": _functions,
    "stopping_criteria": _functions,
    "prefix_allowed_tokens_fn": _function,
}
