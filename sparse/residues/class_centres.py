"""ClassCentres: what is read stands for what it resembles, too (EMS)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from specdec.forward.plan import Entries
from specdec.sparse.maths.class_centres import class_centres
from specdec.sparse.residues.base import Rest


@dataclass(frozen=True)
class ClassCentres:
    """The kept tokens of each head with those merged into them that are redundant, the others gone.

    EMS (arXiv 2412.08521), see `maths.class_centres`: tokens are important (class centres),
    redundant or irrelevant. The paper has fewer centres than it keeps tokens, by a head's
    redundancy, and does not say how many; here every kept token may become one. An entry of c
    tokens has log c added to its logit, which the paper leaves out: without it merging loses mass.
    threshold: the least redundancy that is merged; no value is published with the paper's text, and
    0.6 is what reviews of it report.
    """

    threshold: float = 0.6
    replaces = True

    def entries(self, rest: Rest) -> Entries:
        """As many entries as each head keeps tokens, which is the same number for all."""
        count = int(rest.kept.sum(dim=1).max())
        centres = rest.kept.to(torch.uint8).topk(count, dim=1).indices
        finite = rest.score.masked_fill(rest.score == torch.inf, 0)
        top = finite.amax(dim=1, keepdim=True)
        weight = torch.where(rest.score == torch.inf, top, finite).clamp_min(1e-12).to(rest.k)
        merged = class_centres(rest.k, rest.v, weight, centres, self.threshold)
        return Entries(merged.k, merged.v, merged.size.log())
