"""MergedSimilar: kept tokens that have taken up dropped ones which are like them (D2O)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from specdec.forward.plan import Entries
from specdec.sparse.maths.merge_similar import merge_similar
from specdec.sparse.residues.base import Rest


@dataclass(frozen=True)
class MergedSimilar:
    """The kept tokens of each head by `maths.merge_similar`, dropped ones below the threshold gone.

    D2O (arXiv 2406.13035) moves its threshold from one eviction to the next. Each choice here
    merges the original keys anew, so there is no step before, and it is the mean cosine, where the
    moving average begins. As in the paper an entry weighs as one token, whatever it took up.
    """

    replaces = True

    def entries(self, rest: Rest) -> Entries:
        """As many entries as each head keeps tokens, which is the same number for all."""
        count = int(rest.kept.sum(dim=1).max())
        order = rest.kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]
        k, v, _, _ = merge_similar(rest.k, rest.v, rest.kept)
        k, v = (x.gather(1, order[..., None].expand(-1, -1, x.shape[-1])) for x in (k, v))
        none = torch.where(rest.kept.gather(1, order), 0.0, -torch.inf).to(k.dtype)
        return Entries(k, v, none)
