"""Detokenizer: text from tokens as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_INCOMPLETE = "\ufffd"  # what tokenizers print for bytes that do not make a character yet


class Detokenizer:
    """Turns tokens into text one by one, for any transformers tokenizer.

    A token's text may depend on its neighbours (spaces, byte fallback), so each new piece is the
    difference between two decodings that start a few tokens back. Bytes of an incomplete character
    are held back until it is complete. Without a tokenizer every piece is empty.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.text = ""
        self._last = 0  # characters that the last push added
        self._tokens = list(prompt[-8:])  # enough context for a correct first space
        self._start, self._read = 0, len(self._tokens)

    def push(self, token: int) -> str:
        """Add a token and return the text it completes, which may be empty."""
        self._tokens.append(token)
        both = self._decode(self._tokens[self._start :])
        return "" if both.endswith(_INCOMPLETE) else self._take(both)

    def flush(self) -> str:
        """The text of bytes that never became a character, at the very end."""
        return self._take(self._decode(self._tokens[self._start :]))

    def _take(self, both: str) -> str:
        piece = both[len(self._decode(self._tokens[self._start : self._read])) :]
        if piece:
            self._start, self._read = self._read, len(self._tokens)
        self._last = len(piece)
        self.text += piece
        return piece

    def cut_before(self, stop_strings: Sequence[str]) -> bool:
        """Whether the text holds a stop string; if so `text` is cut before the first, in place."""
        places = []
        for stop in stop_strings:
            # Only the end of the text is new; a stop string may have begun before it.
            place = self.text.find(stop, max(0, len(self.text) - self._last - len(stop) + 1))
            if place >= 0:
                places.append(place)
        if places:
            self.text = self.text[: min(places)]
        return bool(places)

    def held_back(self, stop_strings: Sequence[str]) -> int:
        """Characters at the end that may turn out to begin a stop string."""
        longest = 0
        for stop in stop_strings:
            for size in range(min(len(stop) - 1, len(self.text)), longest, -1):
                if self.text.endswith(stop[:size]):
                    longest = size
                    break
        return longest

    def _decode(self, tokens: Sequence[int]) -> str:
        if self.tokenizer is None:
            return ""
        text: str = self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
