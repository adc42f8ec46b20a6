"""MergedRuns: runs of similar neighbours that are left out, each as one (KVMerger, 2407.08454)."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.forward.plan import Entries
from specdec.sparse.maths.merge_runs import merge_runs, runs
from specdec.sparse.residues.base import Rest


@dataclass(frozen=True)
class MergedRuns:
    """At most `share` of the tokens left as entries, `least` being the cosine from which on
    neighbours merge in any case: see `maths.merge_runs`."""

    share: float
    least: float
    replaces = False

    def entries(self, rest: Rest) -> Entries:
        left = ~rest.kept
        count = max(1, round(self.share * int(left.sum(-1).max())))
        run = runs(rest.k, left, count, self.least)
        k, v, number = merge_runs(rest.k, rest.v, left, rest.score, run)
        used = number > 0  # runs of kept tokens are nobody's: the others come first
        order = used.long().argsort(dim=-1, descending=True, stable=True)
        order = order[:, : int(used.sum(-1).max())]
        k, v = (x.gather(1, order[..., None].expand(-1, -1, x.shape[-1])) for x in (k, v))
        return Entries(k, v, number.gather(1, order).log())
