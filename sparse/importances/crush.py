"""Crush: representatives of what is left out, as different from each other as can be (KVCrush)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.forward.plan import Needs
from specdec.sparse.importances.importance import Importance
from specdec.sparse.text import Text

ANCHORS = ("majority", "ones", "zeros", "alternating")


@dataclass(frozen=True)
class Crush:
    """Gives a `share` of the budget to representatives of the tokens that are left out.

    KVCrush (arXiv 2503.00022): bit h of token t says whether head h's own choice holds it. The
    tokens that a head leaves out are sorted by the Hamming distance of their bits to one `anchor`,
    and evenly spaced ones of that order take the place of the worst of its choice. The paper draws
    the anchor at random by default; "majority" (each bit as most of these tokens have it) needs no
    seed. share: OpenVINO GenAI's implementation gives them 2 blocks of 6 to 14; a fifth is between.

    base: whose choice it is, of `count` tokens besides the `first` and the `last` ones, which are
    read anyway. A choice that has to make way for new text does so from both in proportion.
    """

    base: Importance
    count: int
    first: int = 0
    last: int = 0
    share: float = 0.2
    anchor: str = "majority"
    page_size = 1

    @property
    def needs(self) -> Needs:
        return self.base.needs

    def scores(self, text: Text) -> Tensor | None:
        """See `Importance`: the lower a token's place in the choice, the higher its score."""
        found = self.base.scores(text)
        if found is None:
            return None
        inner = slice(self.first, max(self.first, found.shape[1] - self.last))
        count = min(self.count, found[:, inner].shape[1])
        if not count:
            return found
        chosen = self.choose(found[:, inner], count) + self.first
        out = found - found.amax() - 1  # below 0, in the order of the base
        extra = min(int(self.share * count), found[:, inner].shape[1] - count)
        return out.scatter_(1, chosen, _places(count, extra).to(out).expand(len(out), -1))

    def choose(self, score: Tensor, count: int) -> Tensor:
        """`count` tokens of each head, `int64[Hkv, count]`: its best, then its representatives.

        score: `[Hkv, S]`, importances.
        """
        heads, tokens = score.shape
        ranked = score.sort(dim=-1, descending=True, stable=True).indices
        extra = min(int(self.share * count), tokens - count)
        if not extra:
            return ranked[:, :count]
        bits = torch.zeros_like(score, dtype=torch.bool).scatter_(1, ranked[:, :count], True)
        chosen = [representatives(bits, ~bits[h], extra, self.anchor) for h in range(heads)]
        return torch.cat([ranked[:, : count - extra], torch.stack(chosen)], dim=1)


def _places(count: int, extra: int) -> Tensor:
    """A score above 0 for each of the chosen, own ones and the last `extra` of them in turn."""
    own = torch.arange(count - extra) / max(1, count - extra)
    others = torch.arange(extra) / max(1, extra)
    return 2 - torch.cat([own, others])


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
