"""Sentences: read whole, by what the running sentence asks for (SentenceKV, arXiv 2504.00970)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from specdec.forward.plan import Needs
from specdec.sparse.groupings.base import Asked, Chosen, Lines, Stretch
from specdec.sparse.groupings.clusters import joined
from specdec.sparse.maths.groups import Groups
from specdec.sparse.maths.pooling import pooled
from specdec.sparse.query_trail import QueryTrail, Trails

LONGEST = 64  # tokens of a sentence; longer ones are cut, or the open one could fill a budget
WINDOW, POOL = 32, 7  # of SnapKV's votes, in the released code


@dataclass(frozen=True)
class Sentences:
    """The sentences u with the greatest q_mean . mean(k of u's tokens), for each KV head.

    q_mean is the mean over the queries of the running sentence, which the trail keeps, over the
    pass's own, and over the query heads of a KV head; the released code chooses for each query
    head. A sentence ends behind one of the tokens `marks`, and with the prompt.

    survivors: tokens of the prompt that take part in each head, the most voted by the prompt's end
    (SnapKV, max-pooled; those that vote survive as well); 0: all. Others are never read.
    """

    marks: frozenset[int]
    survivors: int = 0
    estimates = False

    @property
    def key(self) -> str:
        return f"sentences {self.survivors} {hash(self.marks)}"

    @property
    def needs(self) -> Needs:
        window = WINDOW if self.survivors else 0
        return Needs(window, verified=True, followers=(QueryTrail(),))

    def ends(self, at: Stretch, known: Sequence[int]) -> list[int]:
        """The prompt is one part, each sentence behind it another."""
        prompt = min(max(0, Trails.prompt_of(at.text) - at.offset), at.length)
        out = [prompt] if prompt else []
        if list(known[: len(out)]) == out:
            out = list(known)
        return out + self._cut(at, out[-1] if out else 0, at.length)

    def lines(self, at: Stretch, start: int, end: int) -> Lines:
        """Members, starts and sizes of sentences, and their mean keys `[Hkv, U, D]`."""
        cuts = self._cut(at, start, end)
        cuts += [end] * (not cuts or cuts[-1] < end)
        k, _ = at.tokens(start, end)
        heads, device = len(k), k.device
        ends = torch.tensor(cuts, device=device)
        of = torch.searchsorted(ends, torch.arange(start, end, device=device), right=True)
        stays = self._stays(at, start, end, heads)
        sizes = torch.zeros(heads, len(cuts), dtype=torch.int64, device=device)
        sizes.scatter_add_(1, of.expand(heads, -1), stays.long())
        sums = k.new_zeros(heads, len(cuts), k.shape[-1]).index_add_(1, of, k * stays[..., None])
        # Within a sentence those that stay come first: its size then leaves out the others.
        order = (2 * of + ~stays).argsort(dim=1, stable=True) + start
        starts = torch.cat([ends.new_tensor([start]), ends[:-1]]).expand(heads, -1)
        return order.int(), starts, sizes, sums / sizes.clamp_min(1)[..., None]

    def choose(self, asked: Asked) -> Chosen:
        """See `Grouping`."""
        means = joined([x[3] for x in asked.held])
        groups = Groups.joined([Groups(*x[:3]) for x in asked.held])
        q, text = asked.q, asked.text
        running = Trails.of(text.store).rows[text.sequence].since(text.layer, asked.open_at)
        if running is not None:
            q = torch.cat([running.to(q), q], dim=1)
        mean = q.to(means).mean(dim=1).unflatten(0, (len(means), -1)).mean(dim=1)
        score = torch.einsum("hd,hud->hu", mean, means)
        return Chosen(groups.best(score, asked.count, asked.first, asked.last))

    def _cut(self, at: Stretch, start: int, end: int) -> list[int]:
        """Where sentences end that are closed between two places of a level."""
        out, begin = [], start
        for i, token in enumerate(at.text.tokens[at.offset + start : at.offset + end], start + 1):
            if token in self.marks or i - begin == LONGEST:
                out.append(i)
                begin = i
        return out

    def _stays(self, at: Stretch, start: int, end: int, heads: int) -> Tensor:
        """Which tokens take part, `bool[Hkv, end - start]`."""
        first, prompt = at.offset + start, Trails.prompt_of(at.text)
        window = at.text.window
        if not self.survivors or window is None or first >= prompt:
            return torch.ones(heads, end - start, dtype=torch.bool, device=at.text.device)
        counts, left = [], prompt
        for count in at.text.covered:
            counts.append(min(count, left))
            left -= counts[-1]
        votes = replace(at.text, covered=tuple(counts)).attention(window.last(WINDOW))
        score = pooled(votes.sum(dim=2).mean(dim=1), POOL, "max")
        score[:, -WINDOW:] = torch.inf
        best = score.topk(min(self.survivors, prompt), dim=-1).indices
        stays = torch.zeros_like(score, dtype=torch.bool).scatter_(1, best, True)
        return stays[:, first : at.offset + end]
