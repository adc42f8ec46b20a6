"""Atlas: whether the model is in need of what it does not have (ATLAS, arXiv 2504.01281)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Atlas:
    """Looks at a token that the model was unsure of, and at how layers disagree about it.

        MLAG = alpha G D,  alpha = alpha0 exp(-rate * load)
        G = sum over l of l / (L - 1) |A_{l+1} - A_l|     A_l: attention the token gets, head mean
        D = (1 - p) sum over h of phi_h A_h               of the last layer's heads, where phi_h is
                                                          head h's share of their entropies

    It is only asked where the token's probability p is below `unsure`. The paper retrieves text
    then; for a drafter it is the place to stop, because the target is likely to go another way.
    load, the share of time spent on retrieval, is 0 here. Ranges in the paper: alpha0 0.7 to 1,
    rate 3 to 5, unsure 0.5; the paper gives no threshold for MLAG itself.
    """

    unsure: float = 0.5
    alpha0: float = 1.0
    rate: float = 3.0

    def value(self, received: Tensor, heads: Tensor, entropy: Tensor, p: float) -> float:
        """MLAG of a token of probability p.

        received: `[L]`, the A_l; heads: `[H]`, what it gets from the last layer's heads; entropy:
        `[H]`, of their attention.
        """
        if p >= self.unsure:
            return 0.0
        layers = len(received)
        rise = torch.arange(layers - 1, device=received.device) / max(1, layers - 1)
        gradient = (rise * received.diff().abs()).sum()
        share = entropy / entropy.sum().clamp_min(torch.finfo(entropy.dtype).tiny)
        return self._alpha(0.0) * float(gradient * (1 - p) * (share * heads).sum())

    def _alpha(self, load: float) -> float:
        return self.alpha0 * math.exp(-self.rate * load)
