"""global_local: what the whole prompt looked at, or what its end looks at, whichever says more."""

from __future__ import annotations

from torch import Tensor


def global_local(overall: Tensor, window: Tensor) -> Tensor:
    """max(g / mean g, l / mean l), `[Hkv, S]`: EMS (arXiv 2412.08521).

    overall: g `[Hkv, S]`, attention of queries of the whole prompt; window: l, that of its last
    ones. Each is divided by its mean over the tokens, so that they can be compared. The paper
    leaves open how the two become one; max keeps what either needs.
    """
    ours = (x / x.mean(dim=-1, keepdim=True).clamp_min(1e-30) for x in (overall, window))
    first, second = ours
    return first.maximum(second)
