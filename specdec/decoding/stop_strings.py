"""StopStrings: where a text holds a string that ends it, also one of special tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from specdec.decoding.detokenizer import Detokenizer


class StopStrings:
    """Finds the first of some strings in a text as it grows by tokens.

    shown: the text as it is shown, which gets its tokens here. Special tokens are not shown, but a
    string that holds the text of one, or a part of it, ends a text nevertheless; `text` is then cut
    before it.
    """

    def __init__(
        self, strings: Sequence[str], tokenizer: Any, prompt: Sequence[int], shown: Detokenizer
    ) -> None:
        self.strings, self.shown = list(strings), shown
        # The text with special tokens, where a string may be found that is not shown.
        self._raw = None
        if _may_hold_special(self.strings, tokenizer):
            self._raw = Detokenizer(tokenizer, prompt, skip_special_tokens=False)
        self._lengths = [(0, 0)]  # of both texts after each token: raw, shown
        self._searched = 0, 0  # characters of both that hold no string, nor may they yet

    def push(self, token: int) -> None:
        """Add a token to the text."""
        self.shown.push(token)
        if self._raw is not None:
            self._raw.push(token)
            self._lengths.append((len(self._raw.text), len(self.shown.text)))

    def found(self) -> int | None:
        """Where in the shown text the first string begins that the last token completed."""
        if not self.strings:
            return None
        places = self._places(self.shown.text, self._searched[1])
        if self._raw is not None:
            places += map(self._shown_at, self._places(self._raw.text, self._searched[0]))
        settled = self._raw.num_settled if self._raw is not None else 0
        self._searched = (
            max(settled, self._searched[0]),
            max(self.shown.num_settled, self._searched[1]),
        )
        return min(places, default=None)

    def pass_over(self) -> None:
        """Take a string that is complete by now for none."""
        self._searched = len(self._raw.text) if self._raw else 0, len(self.shown.text)

    def num_safe(self) -> int:
        """Characters of the shown text that no string will cut off."""
        safe = self.shown.num_settled
        safe = min(safe, len(self.shown.text) - _begun(self.strings, self.shown.text))
        if self._raw is not None:
            raw = self._raw.text
            safe = min(safe, self._shown_at(len(raw) - _begun(self.strings, raw)))
        return safe

    def _places(self, text: str, searched: int) -> list[int]:
        starts = (text.find(x, max(0, searched - len(x) + 1)) for x in self.strings)
        return [place for place in starts if place >= 0]

    def _shown_at(self, raw: int) -> int:
        """The place in the shown text of one in the raw text."""
        after = bisect_right(self._lengths, raw, key=lambda pair: pair[0])
        at, shown = self._lengths[after - 1]
        most = self._lengths[after][1] if after < len(self._lengths) else len(self.shown.text)
        return min(shown + raw - at, most)


def _begun(strings: Sequence[str], text: str) -> int:
    """Characters at the end of a text that may turn out to begin one of the strings."""
    longest = 0
    for string in strings:
        for size in range(min(len(string) - 1, len(text)), longest, -1):
            if text.endswith(string[:size]):
                longest = size
                break
    return longest


def _may_hold_special(strings: Sequence[str], tokenizer: Any) -> bool:
    """Whether a special token's text and one of the strings overlap."""
    if not strings or tokenizer is None:
        return False
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    texts = {*getattr(tokenizer, "all_special_tokens", ())}
    texts |= {str(token) for token in added if token.special}
    return any(
        text in string or string in text or _begun([string], text) or _begun([text], string)
        for text in texts
        for string in strings
    )
