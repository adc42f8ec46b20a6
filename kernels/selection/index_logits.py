"""index_logits: what queries have to do with each page of an index, query by query."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.dispatch import dispatched


@dispatched
def index_logits(q: Tensor, index: Tensor, *, scale: float, signed: bool = False) -> Tensor:
    """Scaled products of `q[Hkv, M, W]` with the vectors of an index `[Hkv, P, W]`: `[Hkv, M, P]`.

    The index may be a part of a larger buffer, whole in its last two dimensions. signed: for bounds
    `[Hkv, P, 2 W]`, the lower ones first, whose products with (min(q, 0), max(q, 0)) are the
    greatest that a vector between them can have. The scale is positive.
    """
    if signed:
        q = torch.cat([q.clamp_max(0), q.clamp_min(0)], dim=-1)
    return q @ index.to(q).mT * scale
