"""index_logits: what queries have to do with each page of an index, query by query."""

from __future__ import annotations

from torch import Tensor

from specdec.kernels.dispatch import dispatched


@dispatched
def index_logits(q: Tensor, index: Tensor, *, scale: float) -> Tensor:
    """Scaled products of `q[Hkv, M, W]` with the vectors of an index `[Hkv, P, W]`: `[Hkv, M, P]`.

    The index may be a part of a larger buffer, whole in its last two dimensions.
    """
    return q @ index.to(q).mT * scale
