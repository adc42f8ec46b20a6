"""Sentences: where one ends, by token ids (SentenceKV, arXiv 2504.00970)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

MARKS = ".!?\u2026\u3002\uff01\uff1f"  # those of the released code: full stops and CJK ones


def sentence_ends(tokenizer: Any) -> frozenset[int]:
    """Ids of all tokens of a tokenizer that end a sentence: a mark, or a blank line."""
    ids = tokenizer.get_vocab().values()
    texts = zip(ids, tokenizer.batch_decode([[i] for i in ids]), strict=True)
    return frozenset(i for i, text in texts if is_end(text))


def is_end(text: str) -> bool:
    """Whether a token's text ends a sentence; closing quotes and brackets may follow the mark."""
    bare = text.strip().rstrip("\"')]}\u201d\u2019\u300d\u300f\uff09")
    return "\n\n" in text or (bool(bare) and bare[-1] in MARKS)


def sentence_starts(tokens: Sequence[int], ends: Iterable[int]) -> list[int]:
    """Where sentences begin, 0 first; an end token belongs to the sentence that it ends."""
    ends = frozenset(ends)
    return [0, *(i + 1 for i, token in enumerate(tokens[:-1]) if token in ends)] if tokens else []
