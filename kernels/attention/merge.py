"""merge: partial attentions over disjoint keys become one, by their log-sum-exp."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.kernels.dispatch import dispatched


@dispatched
def merge(partials: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The attention over the union of the partials' keys: o `[..., Dv]` and lse `[...]`.

    Every partial is (o, natural-log lse) over keys of its own. A partial with lse = -inf has no
    weight; where all are empty o is 0 and lse is -inf. One partial is returned as it is.
    """
    if len(partials) == 1:
        return partials[0]
    lses = torch.stack([lse for _, lse in partials])
    lse = lses.logsumexp(0)
    weights = torch.exp(lses - lse.clamp_min(torch.finfo(lse.dtype).min)).unsqueeze(-1)
    o = partials[0][0] * weights[0]
    for (part, _), weight in zip(partials[1:], weights[1:], strict=True):
        o = torch.addcmul(o, part, weight)
    return o, lse
