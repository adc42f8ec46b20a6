"""text_ids: text as a tokenizer reads it."""

from __future__ import annotations

from typing import Any

from specdec.errors import InvalidArgument


def text_ids(text: str, tokenizer: Any, name: str, add_special_tokens: bool = True) -> list[int]:
    """The token ids of a text; `name` is what errors call it.

    Raises InvalidArgument for half characters, which no encoding knows. They come from bytes that
    were decoded as what they are not.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"{name} holds the lone surrogate {text[error.start]!r} at character {error.start}, "
            "which is no text: decode the bytes that it came from in their own encoding, or with "
            "errors='replace'"
        ) from None
    return list(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
