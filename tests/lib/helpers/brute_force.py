"""What a suffix automaton must find, by brute force, and short texts to look in."""

from __future__ import annotations

from hypothesis import strategies as st

tokens = st.lists(st.integers(0, 2), max_size=40)
tails = st.lists(st.integers(0, 2), max_size=8)


def longest(text: list[int], tail: list[int], limit: int) -> int:
    """Length of the longest suffix of text + tail that a token follows within the text."""
    whole = text + tail
    for n in range(min(len(whole), limit), 0, -1):
        if followers(text, whole[len(whole) - n :]):
            return n
    return 0


def followers(text: list[int], pattern: list[int]) -> dict[int, tuple[int, int]]:
    """token -> how often it follows `pattern` in the text, and where it last does."""
    found: dict[int, tuple[int, int]] = {}
    n = len(pattern)
    for end in range(n + 1, len(text) + 1):
        if text[end - 1 - n : end - 1] == pattern:
            count, _ = found.get(text[end - 1], (0, 0))
            found[text[end - 1]] = (count + 1, end)
    return found
