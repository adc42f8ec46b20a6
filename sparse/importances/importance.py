"""Importance: how much each page of a text matters, whoever asks."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from specdec.forward.plan import Needs
from specdec.sparse.text import Text


class Importance(Protocol):
    """Scores pages of `page_size` tokens by what was seen of a text, not by the query at hand.

    needs: the queries that it goes by. A view takes the best pages by its scores, after its own
    forced ones, as it does by a `Scorer`'s.
    """

    @property
    def page_size(self) -> int: ...

    @property
    def needs(self) -> Needs: ...

    def scores(self, text: Text) -> Tensor | None:
        """`[Hkv, P]`, the greatest first to be read, for the P full pages of the text: a score a
        page for each KV head; None where the queries were not kept, so that nothing can be said."""
