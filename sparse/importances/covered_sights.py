"""CoveredSights: image tokens that images look at, from all over; then by pages (LiveVLM)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.forward.plan import Needs
from specdec.forward.prompt_queries import Queries
from specdec.sparse.importances.asked_of_images import (
    QUESTION,
    attention_of_question,
    question,
    ranked,
)
from specdec.sparse.maths.key_rotation import KeyRotation
from specdec.sparse.text import Text

EVERY = 4  # of the queries of images every so manieth is a probe
LOOKING = 32  # probes that look back
PAGE = 16
AHEAD = 0.25  # of the tokens kept, that are kept wherever they stand; not said in the paper's text


@dataclass(frozen=True, eq=False)
class CoveredSights:
    """LiveVLM (arXiv 2505.15269). First without the question: tokens by the attention of the last
    image tokens to them, at most one in each of as many stretches as tokens are kept, but for the
    best (`covered`). Then by it: of pages of 16 kept tokens the `share` whose mean key, before
    rotation, gets the most of the question's attention. What is kept of images at last is what
    `budget` leaves beside the text.
    """

    rotation: KeyRotation | None
    budget: int
    share: float = 0.4
    page_size = 1
    needs = Needs(prompt_queries=QUESTION, probe_every=EVERY)

    def scores(self, text: Text) -> Tensor | None:
        """See `Importance`: the same for every KV head."""
        attention, asked = attention_of_question(text), question(text)
        if attention is None or asked is None:
            return None
        made, images = torch.zeros_like(attention), text.images
        room = max(0, self.budget - int((~images).sum()))
        if bool(images.any()) and room:
            seen = self._seen_by_images(text)
            seen = attention if seen is None else seen
            places = images.nonzero()[:, 0]
            kept = places[covered(seen[places], round(room / self.share))]
            made[places] = seen[places] / seen[places].max().clamp_min(1e-300) / 2
            made[kept] = 1 + self._pages(text, asked, kept)
        return ranked(text, attention, made, text.k.shape[0])

    def _seen_by_images(self, text: Text) -> Tensor | None:
        """`[S]`: mean attention of the last probes among image tokens, over all heads."""
        if text.probes is None:
            return None
        at = text.probes.at.to(text.device)
        mine = text.images[at.clamp(max=text.length - 1)] & (at < text.length)
        if not bool(mine.any()):
            return None
        looking = text.probes.only(mine.to(text.probes.at.device)).last(LOOKING)
        return text.attention(looking).mean(dim=(0, 1, 2))

    def _pages(self, text: Text, asked: Queries, kept: Tensor) -> Tensor:
        """For each kept token the rank of its page by the question, in [0, 1]."""
        k, q = text.k[:, kept], asked.q.to(text.device)
        if self.rotation is not None:
            k = self.rotation.turn_back(k, text.positions_of(kept), text.layer)
            at = asked.at.to(text.device)
            q = self.rotation.turn_back(q, text.positions_of(at), text.layer)
        page = torch.arange(len(kept), device=kept.device) // PAGE
        pages = int(page[-1]) + 1
        means = k.new_zeros(len(k), pages, k.shape[-1]).index_add_(1, page, k)
        means /= torch.bincount(page).to(means)[:, None]
        logits = torch.einsum("hgnd,hpd->hgnp", q.unflatten(0, (len(k), -1)).to(k), means)
        mass = (logits * text.scale).softmax(-1).mean(dim=(0, 1, 2))
        return (mass.argsort().argsort().to(mass) / max(pages - 1, 1))[page]


def covered(score: Tensor, count: int) -> Tensor:
    """Places, ascending, of `count` of the tokens with scores `[m]`, in order of the text.

    Of `count` stretches of equal length each holds one token. The best `AHEAD` of `count` are taken
    in any case; then, down the list, those whose stretch is still empty; should that not be enough,
    the best of the others.
    """
    total = len(score)
    if count >= total:
        return torch.arange(total, device=score.device)
    stretch = torch.arange(total, device=score.device) * count // total
    order = score.argsort(descending=True, stable=True)
    ahead = order[: round(AHEAD * count)]
    taken = torch.zeros(count, dtype=torch.bool, device=score.device)
    taken[stretch[ahead]] = True
    rest = order[len(ahead) :]
    where = stretch[rest]
    first = torch.full((count,), len(rest), device=score.device)
    first.scatter_reduce_(0, where, torch.arange(len(rest), device=score.device), "amin")
    is_first = first[where] == torch.arange(len(rest), device=score.device)
    mine = rest[is_first & ~taken[where]]
    others = rest[~(is_first & ~taken[where])]
    return torch.cat([ahead, mine, others])[:count].sort().values
