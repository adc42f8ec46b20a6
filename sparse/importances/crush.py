"""Crush: representatives of what is left out, as different from each other as can be (KVCrush)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ANCHORS = ("majority", "ones", "zeros", "alternating")


@dataclass(frozen=True)
class Crush:
    """Gives a `share` of the budget to representatives of the tokens that are left out.

    KVCrush (arXiv 2503.00022): bit h of token t says whether head h's own choice holds it. The
    tokens that a head leaves out are sorted by the Hamming distance of their bits to one `anchor`,
    and evenly spaced ones of that order take the place of the worst of its choice. The paper draws
    the anchor at random by default; "majority" (each bit as most of these tokens have it) needs no
    seed. share: OpenVINO GenAI's implementation gives them 2 blocks of 6 to 14; a fifth is between.
    """

    share: float = 0.2
    anchor: str = "majority"

    def choose(self, score: Tensor, count: int) -> Tensor:
        """`count` tokens of each head, `int64[Hkv, count]`: its best, then its representatives.

        score: `[Hkv, S]`, importances.
        """
        heads, tokens = score.shape
        ranked = score.sort(dim=-1, descending=True, stable=True).indices
        extra = min(int(self.share * count), max(0, tokens - count))
        if not extra:
            return ranked[:, :count]
        bits = torch.zeros_like(score, dtype=torch.bool).scatter_(1, ranked[:, :count], True)
        chosen = [representatives(bits, ~bits[h], extra, self.anchor) for h in range(heads)]
        return torch.cat([ranked[:, : count - extra], torch.stack(chosen)], dim=1)


def representatives(bits: Tensor, out: Tensor, count: int, anchor: str) -> Tensor:
    """`count` tokens, evenly spaced in the order of their distance to the anchor: `int64[count]`.

    bits: `bool[Hkv, S]`, which tokens each head holds. out: `bool[S]`, those to choose from, at
    least `count`.
    """
    left = out.nonzero()[:, 0]
    words = bits[:, left]
    if anchor == "majority":
        point = words.double().mean(dim=1) > 0.5
    elif anchor == "alternating":
        point = torch.arange(bits.shape[0], device=bits.device) % 2 == 0
    else:
        point = torch.full((bits.shape[0],), anchor == "ones", device=bits.device)
    distance = (words != point[:, None]).sum(dim=0)
    ordered = left[distance.sort(stable=True).indices]
    return ordered[torch.arange(count, device=bits.device) * ordered.shape[0] // count]
