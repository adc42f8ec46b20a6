"""LookedAt: groups of the tokens that were looked at once, by a linear bound (MPCache)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.sparse.importances.look_once import LookOnce
from specdec.sparse.scorers.base import Memo, PageScorer

ALPHA = 0.6  # MPCache's weight of the largest key
SHARE = 0.5  # of the pairs of pages that are looked into
NEVER = -1e9  # a logit that nothing real comes near, and that a softmax can be made of


@dataclass(frozen=True)
class LookedAt(PageScorer):
    """MPCache (arXiv 2501.06807): pages of 16 by alpha q max + (1 - alpha) q min, where max and min
    are over the page's keys that `once` keeps, and only in the better half of the pages of 32.

    once: what nobody looks at when the prompt has been read takes no part; a page of nothing else
    is never read. The paper drops such tokens and groups those that are left; here a group is a
    page of the text, and is read whole. Its window is the last fifth of the prompt; here it is the
    queries that are kept anyway, the last 32, and heads' means are over KV heads. Queries of a KV
    head's group are averaged, which for a linear score is the mean of their scores.
    """

    once: LookOnce = LookOnce()
    alpha: float = ALPHA
    share: float = SHARE
    page_size: int = 16
    name: str = "looked-at"
    learns = True

    @property
    def key(self) -> str:
        return f"{self.name}-{self.page_size}-{self.once.keep}"

    def summarize(self, k: Tensor, memo: Memo) -> Tensor:
        """Greatest and least of each channel over the kept keys, `[Hkv, P, 2, D]`; a page without
        any has them the wrong way round, infinite."""
        kept = torch.ones(k.shape[1:3], dtype=torch.bool, device=k.device)
        if memo.queries is not None and not memo.has_looked:  # what is generated is all kept
            q = memo.queries.to(k.device, torch.promote_types(k.dtype, torch.float32))
            logits = q * memo.scale @ k.flatten(1, 2).to(q).mT
            kept = self.once.kept(logits.softmax(dim=-1)[:, None]).view(kept.shape)
        memo.has_looked = True
        out = ~kept[..., None]
        high = k.masked_fill(out, -torch.inf).amax(dim=2)
        return torch.stack([high, k.masked_fill(out, torch.inf).amin(dim=2)], dim=2)

    def logits(self, q: Tensor, pages: Tensor, scale: float, memo: Memo) -> Tensor:
        """One for each page, `[Hkv, 1, P]`."""
        heads, count = pages.shape[:2]
        if count % 2:  # the last page is a pair with itself
            pages = torch.cat([pages, pages[:, -1:]], dim=1)
        pairs = pages.unflatten(1, (-1, 2))
        wide = torch.stack([pairs[:, :, :, 0].amax(dim=2), pairs[:, :, :, 1].amin(dim=2)], dim=2)
        asked = q.to(pages).mean(dim=1)
        rough, fine = self._rated(asked, wide), self._rated(asked, pages)
        rough[:, 0] = rough[:, -1] = torch.inf
        looked_into = max(1, -(-rough.shape[1] * int(self.share * 100) // 100))
        best = torch.zeros_like(rough, dtype=torch.bool)
        best.scatter_(1, rough.topk(looked_into, dim=1).indices, True)
        fine = fine.where(best.repeat_interleave(2, dim=1) & (fine > NEVER), NEVER / scale)
        return (fine * scale)[:, None, :count]

    def _rated(self, q: Tensor, pages: Tensor) -> Tensor:
        """`[Hkv, P]` for queries `q[Hkv, D]`; `NEVER` for a page that holds nothing."""
        high, low = pages.unbind(dim=2)
        is_empty = high[..., 0] == -torch.inf
        blend = (self.alpha * high + (1 - self.alpha) * low).masked_fill(is_empty[..., None], 0)
        return torch.einsum("hd,hpd->hp", q, blend).masked_fill(is_empty, NEVER)
