"""SemanticVotes: only heads that retrieve meaning vote for what stays (CompressKV)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.forward.plan import Needs
from specdec.sparse.maths.pooling import pooled
from specdec.sparse.text import Text


@dataclass(frozen=True)
class SemanticVotes:
    """The attention of a layer's `heads`, summed over the window, mean of the heads, pooled.

    CompressKV (arXiv 2508.02401): I_t = mean over the layer's semantic retrieval heads h of
    sum_i A[h, i, t]; window 8, mean of 5 neighbours, four heads a layer; the same choice for every
    KV head of the layer. heads: by layer, among all query heads.
    """

    heads: tuple[tuple[int, ...], ...]
    window: int = 8
    pool: int = 5
    page_size = 1

    @property
    def needs(self) -> Needs:
        return Needs(self.window)

    def scores(self, text: Text) -> Tensor | None:
        """See `Importance`."""
        if text.window is None:
            return None
        attention = text.attention(text.window.last(self.window))
        heads = torch.tensor(self.heads[text.layer], device=attention.device)
        return votes(attention, heads, self.pool).expand(attention.shape[0], -1).contiguous()


def votes(attention: Tensor, heads: Tensor, pool: int = 5) -> Tensor:
    """`[S]`. attention: `[Hkv, G, w, S]`; heads: of all query heads, `int64[n]`."""
    return pooled(attention.flatten(0, 1)[heads].sum(dim=1).mean(dim=0), pool)
