"""Compensation: one token of each head that stands for all it leaves out (RazorAttention)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from specdec.forward.plan import Entries
from specdec.sparse.residues.base import Rest


@dataclass(frozen=True)
class Compensation:
    """The mean key and the mean value of a head's N tokens that are left out, weighted by N.

    RazorAttention (arXiv 2407.15891, eq. 4 and 5): N exp(q k^) v^ joins the numerator of the
    head's attention and N exp(q k^) its denominator. The paper folds tokens into the means as they
    leave the window; here they are made anew when the view selects anew, and what came since is
    read as it is.
    """

    replaces = False

    def entries(self, rest: Rest) -> Entries:
        """One entry a head; a head that leaves nothing out has none (log-weight -inf)."""
        left = (~rest.kept).to(rest.k)
        number = left.sum(dim=1, keepdim=True)

        def mean(x: Tensor) -> Tensor:
            return (left[:, None] @ x) / number.clamp_min(1)[..., None]

        return Entries(mean(rest.k), mean(rest.v), number.log())
