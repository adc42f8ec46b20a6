"""ExactMass: the attention itself, summed over each page (TidalDecode, SnapKV, and our own)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from specdec.sparse.scorers.base import Memo, PageScorer


@dataclass(frozen=True)
class ExactMass(PageScorer):
    """Keeps nothing and reads every key; pages of one token give exact top-k.

    What it costs depends on whose queries it scores: a draft's own (TidalDecode's anchors, the
    oracle), the prompt's, once (SnapKV), or those of the last verification, which read all keys
    anyway.
    """

    page_size: int = 1
    name: str = "exact-mass"
    is_exact = True

    @property
    def per_logit(self) -> int:
        return 1

    def summarize(self, k: Tensor, memo: Memo) -> None:
        return None

    def logits(self, q: Tensor, pages: Tensor, scale: float, memo: Memo) -> Tensor:
        """The logit of every key."""
        return (q * scale) @ pages.flatten(1, 2).to(q).mT
