"""EntropyGroups: heads whose queries are all alike keep half as much as the others (UNComp)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EntropyGroups:
    """Heads keep by `entropy_groups`; `entropies` has a number for each layer and KV head."""

    entropies: tuple[tuple[float, ...], ...]
    groups: int = 2
    is_bounded = True

    def counts(self, score: Tensor, count: int, layer: int) -> Tensor:
        """See `HeadBudget`; what every head keeps anyway is not divided."""
        forced = int((score == torch.inf).sum(dim=-1).max())
        entropy = torch.tensor(self.entropies[layer], device=score.device)
        shares = forced + entropy_groups(entropy, max(0, count - forced), self.groups)
        return shares.clamp_max(score.shape[1])


def entropy_groups(entropy: Tensor, count: int, groups: int = 2) -> Tensor:
    """Tokens of each KV head, `int64[Hkv]`, at most `Hkv * count` in all.

    UNComp (arXiv 2410.03090): heads of a layer are sorted by the truncated entropy of their
    queries' covariance and cut into groups of equal size; group i of n keeps in proportion to i +
    1, the lowest entropy the least, so of two groups the lower one keeps half of the other.
    entropy: `[Hkv]`. The released code sizes query heads of an expanded cache, and its sizes 768
    and 384 for an argument of 512 are more than it was asked for: here their mean is `count`.
    """
    heads = entropy.shape[0]
    rank = torch.empty(heads, dtype=torch.int64, device=entropy.device)
    rank[entropy.sort(stable=True).indices] = torch.arange(heads, device=entropy.device)
    weight = rank * min(groups, heads) // heads + 1
    return weight * (heads * count) // weight.sum()
