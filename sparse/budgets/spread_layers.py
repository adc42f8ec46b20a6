"""SpreadLayers: more for layers whose attention is spread over the text (D2O)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from specdec.sparse.budgets.even_attention import even_attention, unevenness


@dataclass(frozen=True)
class SpreadLayers:
    """By `even_attention` of the scores, which are the attention that tokens had in all."""

    looks = True

    def tokens(
        self, layers: Sequence[int], mean: int, scores: Sequence[Tensor]
    ) -> Sequence[int | Tensor]:
        """Weights differ by a factor of e at most, so none has less than a third of the mean: the
        formula's floor of 1 % is held below that, where it would exceed the budget."""
        length = min(scores[0].shape[1], 33 * mean)
        return even_attention([unevenness(x) for x in scores], mean, length)
