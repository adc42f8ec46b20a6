"""HeadBudget: how many pages each KV head of a layer reads."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class HeadBudget(Protocol):
    """Divides a layer's pages among its KV heads.

    is_bounded: all heads together keep to the view's budget; else the budget only says which texts
    are short enough to be read whole, and what came since a selection is read, too.
    """

    @property
    def is_bounded(self) -> bool: ...

    def counts(self, score: Tensor, count: int, layer: int) -> Tensor:
        """How many pages each head keeps, `int64[Hkv]`, of `Hkv * count` in all.

        score: `[Hkv, P]`, the pages' importances; those that every head keeps have inf.
        """
