"""Recency: no score at all, only sinks and the recent window (StreamingLLM, arXiv 2309.17453)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.sparse.scorers.base import LevelPageScorer, Memo, Summary


@dataclass(frozen=True)
class Recency(LevelPageScorer):
    """Later pages come first; with sinks forced, that is a window. Positions stay as they are."""

    page_size: int = 1
    name: str = "recency"

    def summarize(self, k: Tensor, memo: Memo) -> Tensor:
        """Nothing of the keys: an empty summary, `[Hkv, P, 0]`."""
        return k[:, :, 0, :0]

    def logits(self, q: Tensor, pages: Tensor, scale: float, memo: Memo) -> Tensor:
        heads, count = pages.shape[:2]
        return torch.arange(count, device=q.device, dtype=torch.float32).expand(heads, 1, count)

    def allocate(self, k: Tensor, pages: int) -> Summary:
        return (k.new_empty(*k.shape[:2], pages, 0),)

    def update(
        self, summary: Summary, k: Tensor, since: Tensor, length: Tensor, pages: int
    ) -> None:
        """Nothing to keep."""

    def scores(self, q: Tensor, summary: Summary, length: Tensor, row_map: Tensor) -> Tensor:
        heads, count = summary[0].shape[1:3]
        later = torch.arange(count, device=q.device, dtype=torch.float32)
        return later.expand(q.shape[0], heads, count).contiguous()
