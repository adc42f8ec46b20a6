"""What can go wrong, as one tree.

SpecdecError
├── InvalidArgument (also ValueError)   a name, value or combination we cannot honour
├── UnsupportedModel (also ValueError)  a model that cannot be rolled back or driven
├── PromptTooLong (also ValueError)     no room for one new token
├── NothingAllowed (also ValueError)    scores that no token can be chosen by
├── OutOfMemory (also MemoryError)      keys and values that fit nowhere they may lie
├── WeightsError (also OSError)         missing, damaged or unsafe weights
└── VocabularyMismatch (also ValueError) draft and target do not share token ids
"""

from collections.abc import Iterable
from difflib import get_close_matches


class SpecdecError(Exception):
    """The base of every error this package raises on purpose."""


class InvalidArgument(SpecdecError, ValueError):
    """An argument that cannot be honoured; the message names it and says what to do."""


class UnsupportedModel(SpecdecError, ValueError):
    """A model whose state cannot be rolled back, or whose attention we cannot drive."""


class PromptTooLong(SpecdecError, ValueError):
    """The prompt leaves no position for a new token."""


class NothingAllowed(SpecdecError, ValueError):
    """All tokens of a position are forbidden, or its scores are NaN or infinite."""


class OutOfMemory(SpecdecError, MemoryError):
    """Keys and values that fit into none of the memory they may take."""


class WeightsError(SpecdecError, OSError):
    """Weights that are missing, damaged, or in a format that can run code."""


class VocabularyMismatch(SpecdecError, ValueError):
    """The draft model's token ids do not mean what the target's mean."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InvalidArgument:
    """The error for a name that is not in a table, with the nearest one that is; a long table is
    not told where there is one."""
    known = sorted(known)
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    table = "" if near and len(known) > 40 else f"known are {', '.join(known)}"
    return InvalidArgument(f"unknown {kind} {name!r}: {hint}{table}".rstrip())
