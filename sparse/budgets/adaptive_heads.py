"""AdaptiveHeads: a layer's budget divided among its KV heads by what they look at (AdaKV)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AdaptiveHeads:
    """Heads whose attention is spread out keep more pages, concentrated ones fewer.

    The best `Hkv * count` pages of all heads together are counted by head, of which `safeguard *
    count` are each head's own (AdaKV, arXiv 2407.11550, algorithm 1; its released code has 0.2).
    """

    safeguard: float = 0.2
    is_bounded = True

    def counts(self, score: Tensor, count: int, layer: int) -> Tensor:
        """How many pages each head keeps, `int64[Hkv]`, in all `Hkv * count`.

        score: `[Hkv, P]`, importances that can be compared between heads. count: pages a head.
        """
        heads, pages = score.shape
        own = min(pages, int(self.safeguard * count))
        ranked = score.sort(dim=-1, descending=True).values
        shared = ranked[:, own:].flatten().topk(min(heads * (count - own), heads * (pages - own)))
        return own + torch.bincount(shared.indices // max(1, pages - own), minlength=heads)
