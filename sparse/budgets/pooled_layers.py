"""PooledLayers: the best tokens of all heads of all layers together (Layer-DefensiveKV)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PooledLayers:
    """Heads of all layers keep by `pooled_layers`, but `least` at any rate: what is always read."""

    least: int = 0
    safeguard: float = 0.2
    looks = True

    def tokens(self, layers: Sequence[int], mean: int, scores: Sequence[Tensor]) -> list[Tensor]:
        """See `LayerBudget`: one number for each KV head of each layer."""
        least = min(self.least, mean)
        return [least + n for n in pooled_layers(scores, mean - least, self.safeguard)]


def pooled_layers(scores: Sequence[Tensor], mean: int, safeguard: float = 0.2) -> list[Tensor]:
    """How many tokens each head of each layer keeps, `int64[Hkv]` a layer.

    Layer-DefensiveKV (arXiv 2510.13334): the flat top-k of AdaKV (arXiv 2407.11550, algorithm 1)
    over the heads of all layers: of `mean` tokens a head, `safeguard * mean` are each head's own.
    scores: a layer's importances `[Hkv, S]` each, comparable between layers.
    """
    ranked = [s.double().sort(dim=-1, descending=True).values for s in scores]
    own = [min(r.shape[1], int(safeguard * mean)) for r in ranked]
    heads = [r.shape[0] for r in ranked]
    left = sum(h * (min(mean, r.shape[1]) - o) for h, r, o in zip(heads, ranked, own, strict=True))
    flat = torch.cat([r[:, o:].flatten() for r, o in zip(ranked, own, strict=True)])
    is_best = torch.zeros_like(flat, dtype=torch.int64)
    is_best[flat.topk(min(left, len(flat))).indices] = 1
    parts = is_best.split(
        [h * (r.shape[1] - o) for h, r, o in zip(heads, ranked, own, strict=True)]
    )
    return [o + part.view(h, -1).sum(dim=1) for h, o, part in zip(heads, own, parts, strict=True)]
