"""NeighbourMeans: tokens that are not selected, merged with their neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from specdec.forward.plan import Entries
from specdec.sparse.residues.base import Rest


@dataclass(frozen=True)
class NeighbourMeans:
    """The mean key and the mean value of every `size` neighbouring tokens that are left out.

    An entry stands for the n tokens it was made of: log n is added to its logit, which is exact
    where their keys are equal (the log-count of merged tokens: ToMe, arXiv 2210.09461, eq. 2).
    """

    size: int = 32
    replaces = False

    def entries(self, rest: Rest) -> Entries:
        """Entries for the tokens that are not kept."""
        k, v, kept = rest.k, rest.v, rest.kept
        heads, tokens, _ = k.shape
        count = -(-tokens // self.size)
        group = (torch.arange(tokens, device=k.device) // self.size).expand(heads, -1)
        left = (~kept).to(k.dtype)
        number = left.new_zeros(heads, count).scatter_add_(1, group, left)
        means = [
            x.new_zeros(heads, count, x.shape[-1]).scatter_add_(
                1, group[..., None].expand_as(x), x * left[..., None]
            )
            / number.clamp_min(1)[..., None]
            for x in (k, v)
        ]
        return Entries(means[0], means[1], number.log())
