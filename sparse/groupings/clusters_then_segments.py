"""ClustersThenSegments: a prompt by content, what is written as it comes (LouisKV, 2510.11292)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from specdec.forward.plan import Needs
from specdec.sparse.groupings.base import Asked, Chosen, Lines, Stretch
from specdec.sparse.groupings.clusters import (
    attention_of,
    clustered,
    joined,
    prompt_segments,
    sorted_by,
)
from specdec.sparse.maths.groups import Groups
from specdec.sparse.query_trail import QueryTrail, Trails

LONGEST = 64  # tokens of a segment: the open one is always read, and must not fill a budget


@dataclass(frozen=True)
class ClustersThenSegments:
    """Units u of each KV head by the mean over its query heads of softmax over u of q . c_u, where
    c_u is the mean of a unit's keys.

    A unit is a cluster of the prompt's keys by k-means, one for every 16 tokens, or a segment: what
    was written between two turns of the query, which are where its cosine with the one before, mean
    over the heads, is below `threshold`. Of several queries that to which a unit matters most
    decides.
    """

    threshold: float
    estimates = False

    @property
    def key(self) -> str:
        return f"clusters, then segments {self.threshold}"

    @property
    def needs(self) -> Needs:
        return Needs(verified=True, followers=(QueryTrail(),))

    def ends(self, at: Stretch, known: Sequence[int]) -> list[int]:
        """Segments of the prompt, then those between turns."""
        out = prompt_segments(at)
        trail = Trails.of(at.text.store).rows[at.text.sequence]
        if list(known[: len(out)]) == out:
            out = list(known)
        begin = out[-1] if out else 0
        alike = trail.alike.get(at.text.layer, [])
        for i in range(begin + 1, at.length + 1):
            # the query of the token behind i tells whether it begins anew
            behind = at.offset + i - trail.prompt
            turns = 0 <= behind < len(alike) and not alike[behind] >= self.threshold
            if turns or i - begin == LONGEST:
                out.append(i)
                begin = i
        return out

    def lines(self, at: Stretch, start: int, end: int) -> Lines:
        """Members, starts and sizes of units, and their mean keys `[Hkv, U, D]`."""
        k, _ = at.tokens(start, end)
        if at.offset + start < Trails.prompt_of(at.text):
            of, means = clustered(k, spherical=False)
        else:
            of, means = torch.zeros_like(k[..., 0], dtype=torch.int64), k.mean(1, keepdim=True)
        members, starts, sizes = sorted_by(of, means.shape[1])
        return members + start, starts + start, sizes, means

    def choose(self, asked: Asked) -> Chosen:
        """See `Grouping`."""
        groups = Groups.joined([Groups(*x[:3]) for x in asked.held])
        means = joined([x[3] for x in asked.held])
        score = attention_of(asked, means, groups.sizes).mean(dim=1).amax(dim=1)
        score = score.masked_fill(groups.sizes == 0, -torch.inf)
        return Chosen(groups.best(score, asked.count, asked.first, asked.last))
