"""DenseLayers: more for layers whose block scores are concentrated (ActQKV)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.sparse.scorers.probe_query import spread

LEAST, MOST = 32 / 46, 2.0  # of the mean: ActQKV's fewest, usual and most blocks


@dataclass(frozen=True)
class DenseLayers:
    """A layer's share is its density, 1 / H, where H is the entropy of the softmax of its block
    scores, which are brought to 0 .. 1 first, as in ActQKV's released code; heads are averaged.

    Its weights differ by less than a factor of e, so shares are near even (`docs/decisions`). The
    code deals the budget out layer by layer by what it expects of the layers to come; here those
    are known.
    """

    looks = True

    def tokens(self, layers: Sequence[int], mean: int, scores: Sequence[Tensor]) -> list[int]:
        """See `LayerBudget`: between 32/46 of the mean and twice the mean."""
        density = torch.stack([1 / _entropy(x).clamp_min(1e-6) for x in scores])
        share = (density / density.mean()).clamp(LEAST, MOST)
        above = share - LEAST
        room = len(layers) * (1 - LEAST)
        if above.sum() > room:
            above = above * (room / above.sum())
        return [int(mean * (LEAST + x)) for x in above.tolist()]


def _entropy(score: Tensor) -> Tensor:
    """H over log P of the mean of a layer's scores `[Hkv, P]`."""
    x = score.double().mean(dim=0)
    return spread((x - x.min()) / (x.max() - x.min()).clamp_min(torch.finfo(x.dtype).tiny))
