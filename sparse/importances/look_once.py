"""LookOnce: which tokens nobody looks at when the prompt has been read (MPCache)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LookOnce:
    """Keeps the `keep` share of tokens that some query, by the mean of all heads, looks at most.

    MPCache (arXiv 2501.06807) keeps a token if any observed query gives it at least a threshold,
    which the released code sets by data set, from 1e-20 to 1e-3, so that 0.15 to 0.66 of the prompt
    stay. Here the threshold is the quantile that keeps half, which needs no data set.
    """

    keep: float = 0.5

    def score(self, attention: Tensor) -> Tensor:
        """The most that any query gives a token by the mean of all heads, `[S]`.

        attention: `[Hkv, G, w, S]`, probabilities.
        """
        return attention.mean(dim=(0, 1)).amax(dim=0)

    def kept(self, attention: Tensor) -> Tensor:
        """Which tokens stay, `bool[S]`, ceil(keep * S) of them; of equal ones the first."""
        score = self.score(attention)
        count = -(-int(self.keep * score.shape[0] * 1_000_000) // 1_000_000)
        best = score.sort(descending=True, stable=True).indices[: max(1, count)]
        return torch.zeros_like(score, dtype=torch.bool).index_fill_(0, best, True)
