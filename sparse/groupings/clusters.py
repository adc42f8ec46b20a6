"""Clusters: tokens whose keys point the same way, read or estimated (RetroInfer, 2505.02922)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.forward.plan import Needs
from specdec.sparse.groupings.base import Asked, Chosen, Lines, Stretch
from specdec.sparse.maths.groups import Groups
from specdec.sparse.maths.kmeans import kmeans
from specdec.sparse.maths.merging import scatter_mean
from specdec.sparse.maths.zones import estimated
from specdec.sparse.query_trail import QueryTrail, Trails

SIZE = 16  # tokens of a cluster on average: the released code's, and LouisKV's
# Tokens that are clustered together at most, and steps of Lloyd's algorithm. RetroInfer's segments
# of 8,192 take ten times as long on a CPU, and drafts agree as well with these.
SEGMENT, LOOPS = 2048, 4


@dataclass(frozen=True)
class Clusters:
    """Clusters u of each KV head by q . c_u, c_u being the mean of their keys.

    Keys of a segment of the prompt, less their mean, go into one cluster for every 16 tokens, by
    their cosine with its mean; what is written is clustered for every `update` tokens. A cluster
    matters as much as to the query it matters most to, by softmax over the clusters.

    share: of all clusters, that are estimated: the best of those that are not read, by
    `maths.zones`. The rest is left out, as in the released code.
    """

    share: float = 0.232
    update: int = 128
    estimates = True

    @property
    def key(self) -> str:
        return f"clusters {self.update}"

    @property
    def needs(self) -> Needs:
        return Needs(verified=True, followers=(QueryTrail(),))

    def ends(self, at: Stretch, known: Sequence[int]) -> list[int]:
        """Segments of the prompt, then blocks of `update` tokens."""
        prompt = prompt_segments(at)
        start = prompt[-1] if prompt else 0
        return prompt + list(range(start + self.update, at.length + 1, self.update))

    def lines(self, at: Stretch, start: int, end: int) -> Lines:
        """Members, starts and sizes of clusters; mean keys; sums of values; where among the members
        each token stands."""
        k, v = at.tokens(start, end)
        of, means = clustered(k, spherical=True)
        members, starts, sizes = sorted_by(of, means.shape[1])
        sums = scatter_mean(v, of, means.shape[1], torch.ones_like(v[..., 0]))[0]
        sums *= sizes[..., None]
        places = torch.empty_like(members).scatter_(1, members.long(), arranged(members))
        return members + start, starts + start, sizes, means, sums, places + start

    def choose(self, asked: Asked) -> Chosen:
        """See `Grouping`."""
        groups = Groups.joined([Groups(*x[:3]) for x in asked.held])
        means, sums = (joined([x[i] for x in asked.held]) for i in (3, 4))
        score = attention_of(asked, means, groups.sizes).amax(dim=(1, 2))
        score = score.masked_fill(groups.sizes == 0, -torch.inf)
        tokens = groups.best(score, asked.count, asked.first, asked.last)
        places, offset = [], 0
        for x in asked.held:
            places.append(x[5] + offset)
            offset += x[5].shape[1]
        place = joined(places).gather(1, tokens.clamp_min(0)).long()
        of = groups.at(place).masked_fill(tokens < 0, -1)
        v = asked.text.values(tokens)
        count = round(self.share * score.shape[1])
        return Chosen(tokens, estimated(score, means, sums, groups.sizes, of, v, count))


def prompt_segments(at: Stretch) -> list[int]:
    """Where segments of `SEGMENT` tokens of the prompt end, as far as a level holds it."""
    prompt = min(max(0, Trails.prompt_of(at.text) - at.offset), at.length)
    return [*range(SEGMENT, prompt, SEGMENT), prompt] if prompt else []


def clustered(k: Tensor, spherical: bool) -> tuple[Tensor, Tensor]:
    """Cluster of each token of `k[Hkv, n, D]`, `int64[Hkv, n]`, and mean keys `[Hkv, U, D]`.

    spherical: by the cosine, once the mean of all keys is taken away.
    """
    centre = k.mean(dim=1, keepdim=True) if spherical else torch.zeros_like(k[:, :1])
    of, means = kmeans(k - centre, -(-k.shape[1] // SIZE), LOOPS, spherical)
    return of, means + centre


def sorted_by(of: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Members, starts and sizes of groups (`maths.groups`) by each token's group `int64[H, n]`."""
    sizes = of.new_zeros(len(of), groups).scatter_add_(1, of, torch.ones_like(of))
    return of.argsort(dim=1, stable=True).int(), sizes.cumsum(1) - sizes, sizes


def attention_of(asked: Asked, means: Tensor, sizes: Tensor) -> Tensor:
    """softmax over u of q . c_u: `[Hkv, G, n, U]` for the pass's own queries; 0 for empty ones."""
    q = asked.q.to(means).unflatten(0, (len(means), -1)) * asked.text.scale
    logits = torch.einsum("hgnd,hud->hgnu", q, means)
    return logits.masked_fill(sizes[:, None, None] == 0, -torch.inf).softmax(dim=-1)


def joined(lines: Sequence[Tensor]) -> Tensor:
    """Lines `[H, any, ...]` of several levels as those of one text."""
    return lines[0] if len(lines) == 1 else torch.cat(list(lines), dim=1)


def arranged(x: Tensor) -> Tensor:
    """0, 1 .. n - 1 in each row of `x[H, n]`."""
    return torch.arange(x.shape[1], device=x.device, dtype=x.dtype).expand_as(x)
