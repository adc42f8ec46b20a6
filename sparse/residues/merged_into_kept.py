"""MergedIntoKept: kept tokens with what is left out averaged into them (LOOK-M, Elastic Cache)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from specdec.forward.plan import Entries
from specdec.sparse.maths.merge_into_kept import (
    merge_into_kept,
    nearest_by_cosine,
    nearest_by_place,
)
from specdec.sparse.residues.base import Rest


@dataclass(frozen=True)
class MergedIntoKept:
    """Each token that is left out goes into the kept one whose key is most alike (LOOK-M's pivots,
    arXiv 2406.18139), or which stands nearest (Elastic Cache, 2407.18121).

    Keys are merged as they are cached, after rotation. As in both papers an entry weighs as one
    token, whatever it took up.
    """

    by_place: bool = False
    replaces = True

    def entries(self, rest: Rest) -> Entries:
        """As many entries as the head that keeps most; the others' last ones weigh nothing."""
        into = (
            nearest_by_place(rest.kept) if self.by_place else nearest_by_cosine(rest.k, rest.kept)
        )
        count = int(rest.kept.sum(dim=1).max())
        order = rest.kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]
        merged = (merge_into_kept(x, rest.kept, into, not self.by_place) for x in (rest.k, rest.v))
        k, v = (x.gather(1, order[..., None].expand(-1, -1, x.shape[-1])) for x in merged)
        none = torch.where(rest.kept.gather(1, order), 0.0, -torch.inf).to(k.dtype)
        return Entries(k, v, none)
