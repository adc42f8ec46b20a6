"""CoveredSights: image tokens that images look at, from all over, as they come; then by pages
(LiveVLM)."""

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
from specdec.sparse.importances.stream import Stream
from specdec.sparse.maths.key_rotation import KeyRotation
from specdec.sparse.text import Text

EVERY = 4  # of the queries of images every so manieth is a probe
PAGE = 16  # kept tokens that one mean key stands for: the paper's


@dataclass(frozen=True, eq=False)
class CoveredSights:
    """LiveVLM (arXiv 2505.15269), frame by frame as they come (`maths.frames`).

    While images are within the long-term memory, `room / share` tokens, all are kept. With each
    frame that leads beyond it, what is kept and what has come are compressed to it without the
    question (`Stream`); what was dropped does not come back. Then by the question: of pages of 16
    kept tokens the `share` whose mean key, before rotation, gets the most of its attention. What is
    read of images at last is what `budget` leaves beside the text, the `room`.

    It goes by queries that are kept of the whole prompt, and of the turns of a conversation before
    it, so it does not matter in which messages, chunks or turns the frames came.
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
            kept = Stream(text, round(room / self.share)).kept(attention)
            made[kept] = 1 + self._pages(text, asked, kept)
        return ranked(text, attention, made, text.k.shape[0])

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
