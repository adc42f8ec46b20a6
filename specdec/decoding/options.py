"""The options of all methods by name, their other spellings, and those told to a user's drafter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specdec.errors import InvalidArgument, unknown_name
from specdec.plain import plain
from specdec.registry import holders

# Spellings of other libraries; all of them count draft tokens without the bonus token.
SYNONYMS = {
    "num_speculative_tokens": "num_draft_tokens",
    "num_assistant_tokens": "num_draft_tokens",
    "prompt_lookup_num_tokens": "num_draft_tokens",
    "max_draft_len": "num_draft_tokens",
    "assistant_model": "draft_model",
    "assistant_confidence_threshold": "min_draft_prob",
    "max_matching_ngram_size": "max_ngram",
}


NAMES = frozenset(holders())


def default_of(name: str) -> Any:
    """The default of an option, where all methods agree on it; else None."""
    first, *others = (option.default for option in holders()[name].values())
    return first if all(default == first for default in others) else None


class DraftOptions:
    """What a user's drafter is told: the options of a call, each under its name.

    One that was not given is the default where all methods agree on it, and None elsewhere. It
    takes the options of all drafters and views; each is checked as theirs are.
    """

    def __init__(self, **given: Any) -> None:
        for name in given:
            if name not in NAMES:
                raise unknown_name("option", name, NAMES)
        self.given: Mapping[str, Any] = {
            name: None if value is None else _checked(name, plain(value))
            for name, value in given.items()
        }

    def __getattr__(self, name: str) -> Any:
        if name not in NAMES:
            raise AttributeError(f"no drafter or view has an option {name!r}")
        value = self.given.get(name)
        return default_of(name) if value is None else value

    def __repr__(self) -> str:
        return f"DraftOptions({', '.join(f'{n}={v!r}' for n, v in self.given.items())})"


def _checked(name: str, value: Any) -> Any:
    """The value as the first of those keeps it who can take it. Raises InvalidArgument."""
    *others, last = (option.kind for option in holders()[name].values())
    for kind in others:
        try:
            return kind.check(name, value)
        except InvalidArgument:
            continue
    return last.check(name, value)
