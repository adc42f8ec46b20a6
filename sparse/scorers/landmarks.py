"""Landmarks: a chunk by its mean key, unless its keys are unlike it (ShadowKV, 2410.21465)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.kernels.selection.index_logits import index_logits
from specdec.sparse.scorers.base import Memo, PageScorer


@dataclass(frozen=True)
class Landmarks(PageScorer):
    """Keeps of each chunk its landmark, the mean of its cached keys, and how far they stray.

    A chunk's logit is q . landmark. Its likeness is the least cosine of a key and the landmark: the
    chunks of the least likeness are outliers, whose mean says little, so they are always read and
    leave the others' competition. The paper takes chunks of 8.
    """

    page_size: int = 8
    num_outliers: int = 0
    name: str = "landmarks"

    def summarize(self, k: Tensor, memo: Memo) -> Tensor:
        """Landmark, and likeness behind it, `[Hkv, P, D + 1]`."""
        mean = k.mean(dim=2)
        likeness = torch.cosine_similarity(k, mean[:, :, None], dim=-1).amin(dim=2)
        return torch.cat([mean, likeness[..., None]], dim=-1)

    def logits(self, q: Tensor, pages: Tensor, scale: float, memo: Memo) -> Tensor:
        return index_logits(q, pages[..., :-1].contiguous(), scale=scale)

    def likeness(self, pages: Tensor) -> Tensor:
        return pages[..., -1]
