"""SeenThenSpread: image tokens that the question looks at, then evenly spaced ones (SpecVLM)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.forward.plan import Needs
from specdec.sparse.importances.asked_of_images import QUESTION, attention_of_question, ranked
from specdec.sparse.text import Text


@dataclass(frozen=True)
class SeenThenSpread:
    """The two stages of SpecVLM for video (arXiv 2508.16201): see `seen_then_spread`.

    All text is kept, as far as `budget` goes, by the same attention. The paper averages the scores
    of all layers; here each layer prunes by its own.
    """

    budget: int
    share: float = 0.4
    page_size = 1
    needs = Needs(prompt_queries=QUESTION)

    def scores(self, text: Text) -> Tensor | None:
        """See `Importance`: the same for every KV head."""
        attention = attention_of_question(text)
        if attention is None:
            return None
        images = text.images
        made = torch.zeros_like(attention)
        room = max(0, self.budget - int((~images).sum()))
        made[images] = seen_then_spread(attention[images], room, self.share)
        return ranked(text, attention, made, text.k.shape[0])


def seen_then_spread(score: Tensor, room: int, share: float) -> Tensor:
    """Ranks in [0, 3) of tokens by their scores `[m]`, of which `room` are to be kept.

    Stage I (at 2 and above): the fewest whose scores make up `share` of all, `room` at most. Stage
    II (1): of the others as many as there is room for, evenly spaced by place. The rest below 1.
    """
    if not len(score):
        return score
    order = score.argsort(descending=True, stable=True)
    mass = score[order].cumsum(0)
    first = min(room, int((mass < share * mass[-1]).sum()) + 1)
    ranks = score / score.max().clamp_min(1e-300) / 2
    ranks[order[:first]] += 2
    left = (ranks < 1).nonzero()[:, 0]
    count = min(room - first, len(left))
    if count > 0:
        steps = torch.linspace(0, len(left) - 1, count, dtype=torch.float64).round().long()
        ranks[left[steps.to(left.device)]] = 1.0
    return ranks
