"""KeptTexts: texts that were read lately, for those that begin alike (prefix caching)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from specdec.cache.kept_text import KeptText


class KeptTexts:
    """As many texts as fit a number of bytes, those used last; a text takes the place of the ones
    that it begins with.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._texts: OrderedDict[tuple[int, ...], KeptText] = OrderedDict()

    @property
    def nbytes(self) -> int:
        return sum(text.nbytes for text in self._texts.values())

    def add(self, text: KeptText) -> None:
        """Keep a text, and drop those that are used least where there is no room."""
        for key, other in list(self._texts.items()):
            if text.common(other.tokens) == len(other.tokens):
                del self._texts[key]
        self._texts[tuple(text.tokens)] = text
        while self._texts and self.nbytes > self.most_bytes:
            self._texts.popitem(last=False)

    def nearest(self, tokens: Sequence[int]) -> KeptText | None:
        """The text that `tokens` begin like for the longest, which is then the one used last."""
        shared = {key: text.common(tokens) for key, text in self._texts.items()}
        best = max(shared, key=lambda key: shared[key], default=())
        if not shared.get(best):
            return None
        self._texts.move_to_end(best)
        return self._texts[best]
