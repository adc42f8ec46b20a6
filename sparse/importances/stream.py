"""Stream: the image tokens that are left of frames which are compressed as they come (LiveVLM)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from specdec.forward.prompt_queries import Queries
from specdec.sparse.maths.frames import frames
from specdec.sparse.maths.window_scores import window_scores
from specdec.sparse.text import Text

LOOKING = 32  # probes that look back
AHEAD = 0.25  # of the tokens kept, that are kept wherever they stand; not said in the paper's text


@dataclass(frozen=True, eq=False)
class Stream:
    """The frames of a text in the order in which they came, and a memory for `size` tokens."""

    text: Text
    size: int

    def kept(self, otherwise: Tensor) -> Tensor:
        """Places `int64[m]`, ascending, of the image tokens that are kept at the end.

        With a frame that leads beyond `size`, tokens are chosen by what the last queries of images
        up to its end pay to them, among each other, mean over queries and heads (`covered`). As
        long as none were kept, all tokens stay; in the end `otherwise[S]` chooses then.
        """
        of = frames(self.text.known.content, self.text.length).to(self.text.device)
        held = of.new_zeros(0)
        for number in range(int(of.max()) + 1):
            fresh = (of == number).nonzero()[:, 0]
            held = torch.cat([held, fresh])
            if len(held) > self.size and len(fresh):
                score = self._looked_at(held)
                held = held if score is None else held[covered(score, self.size)]
        return held if len(held) <= self.size else held[covered(otherwise[held], self.size)]

    def _looked_at(self, held: Tensor) -> Tensor | None:
        """`[m]`: mean attention to some tokens alone of the last probes among images before their
        end."""
        if self._sights is None:
            return None
        seen = torch.searchsorted(held, self._sights.at.to(held.device), right=True)
        mine = (seen > 0) & (self._sights.at.to(held.device) <= held[-1])
        if not bool(mine.any()):
            return None
        looking = self._sights.only(mine.to(self._sights.at.device)).last(LOOKING)
        among = (seen[mine] - 1)[-LOOKING:]
        k = self.text.k[:, held]
        q = looking.q.to(k.device).unflatten(0, (len(k), -1))
        paid = window_scores(q, k, self.text.scale, among, self.text.softcap)
        return paid.mean(dim=(0, 1, 2))

    @cached_property
    def _sights(self) -> Queries | None:
        """The probes that are of images."""
        probes = self.text.probes
        if probes is None:
            return None
        at = probes.at.to(self.text.device)
        inside = at < self.text.length
        mine = self.text.images[at.clamp(max=self.text.length - 1)] & inside
        return probes.only(mine.to(probes.at.device))


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
