"""Detokenizer: text from tokens as they come."""

from __future__ import annotations

import os.path
import re
from collections.abc import Sequence
from typing import Any

_INCOMPLETE = "\ufffd"  # what tokenizers print for bytes that do not make a character yet
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_CONTEXT = 8  # tokens before the first new one, so that its space is right
_CLEANED = 8  # characters at the end that cleaning up spaces may still join to what follows


class Detokenizer:
    """Turns tokens into text one by one, for any transformers tokenizer.

    At every moment `text` is what `decode(prompt + output)` shows behind the prompt, less the bytes
    at its end that are no character yet; if the prompt ends within a character, that one counts as
    output. Its first `num_settled` characters will stay, whatever comes. The others may not: those
    from bytes, since tokenizers with byte fallback decode a run of them as one that a last wrong
    byte spoils, and those at the end, where spaces are cleaned up.

    A token's text may depend on its neighbours, so it is found as the difference between two
    decodings from a place where text may be cut. Without a tokenizer there is no text.
    """

    def __init__(
        self, tokenizer: Any, prompt: Sequence[int], skip_special_tokens: bool = True
    ) -> None:
        self.tokenizer = tokenizer
        self.text = ""
        self.num_settled = 0
        self._skipped = _special_ids(tokenizer) if skip_special_tokens else frozenset[int]()
        self._cleans = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))
        self._settled = ""
        self._tokens: list[int] = []  # from a place where text may be cut
        self._places = [0]  # the last few such places among them
        self._before = self._complete = ""  # the text of the first of them, and of its characters
        if tokenizer is not None:
            self._begin([token for token in prompt if token not in self._skipped])

    def push(self, token: int) -> str:
        """Add a token and return the text that it settles, which may be empty."""
        if self.tokenizer is None or token in self._skipped:
            return ""
        self._tokens.append(token)
        text = self._whole()
        self.text = text.rstrip(_INCOMPLETE) if text.endswith(_INCOMPLETE) else text
        if text == self._settled or text != self.text or self._is_byte(token):
            return ""
        return self._settle()

    def flush(self) -> str:
        """Settle all text, also of bytes that never became a character: this is the end."""
        shown = self.num_settled
        if self.tokenizer is not None:
            self.text = self._settled = self._whole()
            self._before = self._complete = self._decode(self._tokens)
        self.num_settled = len(self.text)
        return self.text[shown:]

    def _begin(self, prompt: list[int]) -> None:
        """Choose how much of the prompt is context, and where in it the output's text begins."""
        start = len(prompt)
        while start > 0 and not self._before.strip(_INCOMPLETE).strip():
            start = max(0, start - _CONTEXT)
            while start > 0 and self._is_byte(prompt[start]):  # never within a run of bytes
                start -= 1
            self._tokens = prompt[start:]
            self._before = self._complete = self._decode(self._tokens)
        if self._before.endswith(_INCOMPLETE):  # perhaps up to three bytes of a character
            shorter = (self._decode(self._tokens[:-size]) for size in (1, 2, 3))
            whole = (text for text in shorter if not text.endswith(_INCOMPLETE))
            self._complete = next(whole, self._before)

    def _settle(self) -> str:
        shown = self.num_settled
        self._settled = self.text
        self.num_settled = max(shown, len(self.text) - (_CLEANED if self._cleans else 0))
        # The next context: what was new just now, if there is a word in it.
        most = len(self._tokens) - (_CONTEXT if self._cleans else 1)
        for place in reversed(self._places):
            if place <= most and (before := self._decode(self._tokens[place:])).strip():
                self._tokens = self._tokens[place:]
                self._places = [x - place for x in self._places if x >= place]
                break
        else:
            before = self._decode(self._tokens)
        self._before = self._complete = before
        self._places.append(len(self._tokens))
        return self.text[shown : self.num_settled]

    def _whole(self) -> str:
        """All text there is now, with what stands for bytes that are no character."""
        both = self._decode(self._tokens)
        if both.startswith(self._before):
            return self._settled + both[len(self._before) :]
        if both.startswith(self._complete):  # what the prompt began, the output has completed
            return self._settled + both[len(self._complete) :]
        # Spaces at the end were cleaned up.
        same = len(os.path.commonprefix([both, self._before]))
        back = min(len(self._before) - same, len(self._settled) - self.num_settled)
        kept = self._settled[: len(self._settled) - back]
        return kept + both[len(self._before) - back :]

    def _is_byte(self, token: int) -> bool:
        """Whether a token is a byte that only its neighbours make text of."""
        name = getattr(self.tokenizer, "convert_ids_to_tokens", str)(token)
        return isinstance(name, str) and _BYTE.fullmatch(name) is not None

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=bool(self._skipped)))


def _special_ids(tokenizer: Any) -> frozenset[int]:
    """The ids that a text does not show."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    known = getattr(tokenizer, "all_special_ids", ())
    return frozenset([*known, *(i for i, token in added.items() if token.special)])
