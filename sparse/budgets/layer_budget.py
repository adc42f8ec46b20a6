"""LayerBudget: how many tokens each layer of a view reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class LayerBudget(Protocol):
    """Divides `mean` tokens a layer among the layers that select.

    looks: it goes by importances, which are then made for all layers before the first one reads.
    """

    @property
    def looks(self) -> bool: ...

    def tokens(
        self, layers: Sequence[int], mean: int, scores: Sequence[Tensor]
    ) -> Sequence[int | Tensor]:
        """Tokens of each of `layers`, at most `mean` on average: a number, or `int64[Hkv]` where it
        divides them among the heads, too. scores: a layer's importances `[Hkv, P]` each; none where
        it does not look."""
