"""FrameMeans: the frames whose mean key the question asks for (ReKV, arXiv 2503.00540)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.forward.plan import Needs
from specdec.sparse.importances.asked_of_images import (
    QUESTION,
    attention_of_question,
    question,
    ranked,
)
from specdec.sparse.maths.frames import frames
from specdec.sparse.maths.key_rotation import KeyRotation
from specdec.sparse.text import Text


@dataclass(frozen=True, eq=False)
class FrameMeans:
    """score of a frame = q . k, where k is the mean of its tokens' keys and q that of the
    question's queries, over all heads, both before rotation by position.

    Query heads of a group count by their mean, since keys have fewer heads. Frames come whole, the
    best first. Text is always kept, by the attention of the question where it is too much. The
    paper moves what it retrieves to neighbouring positions; here everything stays where it was.
    """

    rotation: KeyRotation | None
    page_size = 1
    needs = Needs(prompt_queries=QUESTION)

    def scores(self, text: Text) -> Tensor | None:
        """See `Importance`: the same for every KV head."""
        attention, asked = attention_of_question(text), question(text)
        if attention is None or asked is None:
            return None
        of = frames(text.known.content, text.length).to(text.device)
        made = torch.zeros_like(attention)
        if bool((of >= 0).any()):
            k, q = text.k, asked.q.to(text.device)
            at = asked.at.to(text.device)
            if self.rotation is not None:
                k = self.rotation.turn_back(k, text.positions_of(None), text.layer)
                q = self.rotation.turn_back(q, text.positions_of(at), text.layer)
            mean = q.mean(dim=1).unflatten(0, (len(k), -1)).mean(dim=1)
            logits = frame_logits(k, mean, of)
            best = logits.argsort().argsort()[of.clamp_min(0)]
            made = torch.where(of >= 0, 2.0 * (best + 1) / len(logits), made)
        return ranked(text, attention, made, text.k.shape[0])


def frame_logits(k: Tensor, q: Tensor, of: Tensor) -> Tensor:
    """`[F]`: q . mean of the keys `k[Hkv, S, D]` of each frame `of: int64[S]`, over all heads."""
    number = int(of.max()) + 1
    mine = of >= 0
    dots = torch.einsum("hsd,hd->s", k, q.to(k))[mine]
    sums = dots.new_zeros(number).index_add_(0, of[mine], dots)
    return sums / torch.bincount(of[mine], minlength=number).clamp_min(1).to(sums)
