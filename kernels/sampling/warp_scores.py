"""warp_scores: temperature, top-k, top-p and min-p, each row of logits with its own."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.dispatch import dispatched
from specdec.kernels.precision import wide


@dispatched
def warp_scores(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor
) -> Tensor:
    """Scores float32 `[M, V]` (float64 for float64), -inf for tokens that cannot be drawn.

    temperature, top_p, min_p: float32 `[M]`; top_k: `int32[M]`. 1, 0, 1 and 0 leave a row as it is.
    They apply in this order, as in transformers: divide; keep the `top_k` highest and what equals
    the last of them; drop the tokens that together with all below and equal ones hold at most
    1 - top_p of the mass, but never the highest; drop those less likely than `min_p` times the
    highest. Where transformers keeps some of several equal tokens, all stay here.
    """
    wider = wide(logits)
    scores = wider / temperature[:, None].to(wider)
    falling = scores.sort(dim=-1, descending=True).values
    count = torch.where(top_k > 0, top_k, scores.shape[-1]).clamp_max(scores.shape[-1])
    last = falling.gather(-1, count[:, None].long() - 1)
    scores = scores.masked_fill(scores < last, -torch.inf)
    rising = scores.sort(dim=-1).values
    mass = rising.double().softmax(-1).cumsum(-1)
    upto = torch.searchsorted(rising, scores.contiguous(), right=True) - 1
    p = top_p[:, None].double()
    low = (mass.gather(-1, upto) <= 1.0 - p) & (p < 1.0) & (scores < falling[:, :1])
    scores = scores.masked_fill(low, -torch.inf)
    return scores.masked_fill((scores - falling[:, :1]).exp() < min_p[:, None], -torch.inf)
