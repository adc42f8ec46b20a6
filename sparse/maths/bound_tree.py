"""BoundTree: chunks within chunks by bounds on their logits (LeoAM, arXiv 2506.20187)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BoundTree:
    """The best small chunks by Quest's bound, found without looking at most of them.

    sizes: of the chunks of each level in tokens, each a multiple of the next. A chunk's bound,
    sum_c max(q_c min_c, q_c max_c), is at least that of every chunk in it. So a large chunk whose
    bound is below the worst of the best small ones found so far is skipped with all in it (a
    "desert"), and the others are split: what is found is what scoring every small chunk finds. The
    paper's level sizes were not found: 64, 16 and 8 are ours.
    """

    sizes: tuple[int, ...] = (64, 16, 8)

    def levels(self, k: Tensor) -> list[Tensor]:
        """Least and greatest keys of the chunks of each level, `[Hkv, P, 2, D]`, of `k[Hkv, S, D]`;
        S is a multiple of the smallest size, and a larger chunk at the end may be short."""
        low = high = k.unflatten(1, (-1, self.sizes[-1]))
        low, high = low.amin(dim=2), high.amax(dim=2)
        out = [torch.stack([low, high], dim=2)]
        for large, small in zip(self.sizes[-2::-1], self.sizes[:0:-1], strict=True):
            out.insert(0, joined(out[0], large // small))
        return out

    def best(self, q: Tensor, levels: list[Tensor], count: int) -> tuple[Tensor, int]:
        """The `count` best chunks of the last level for one head's `q[M, D]`, `int64[count]`, best
        first by their greatest bound over the queries; and how many bounds were computed.

        levels: `[P, 2, D]` of one head, from the largest chunks down; the smallest may be left out.
        """
        fan = [a // b for a, b in zip(self.sizes, self.sizes[1:], strict=False)]
        total, last = levels[-1].shape[0], len(levels) - 1
        count = min(count, total)
        score = bounds(q, levels[0])
        asked = score.numel()
        order = score.argsort(descending=True)
        first = -(-count * self.sizes[last] // self.sizes[0])
        found_at, found = order.new_zeros(0), score.new_zeros(0)
        threshold = score.new_tensor(-torch.inf)
        # First the chunks that could hold all of the best, then whatever is not below the worst.
        for part in (order[:first], order[first:]):
            at, bound = part, score[part]
            for level in range(last):
                at = at[bound >= threshold]
                at = (
                    at[:, None] * fan[level] + torch.arange(fan[level], device=at.device)
                ).flatten()
                at = at[at < levels[level + 1].shape[0]]
                bound = bounds(q, levels[level + 1][at])
                asked += bound.numel()
            found_at, found = torch.cat([found_at, at]), torch.cat([found, bound])
            if found.numel() >= count:
                threshold = found.topk(count).values[-1]
        return found_at[found.argsort(descending=True, stable=True)[:count]], asked


def bounds(q: Tensor, chunks: Tensor) -> Tensor:
    """The greatest bound over queries `q[M, D]` of each of `chunks[P, 2, D]`, `[P]`."""
    low, high = chunks.unbind(1)
    return (q.clamp_min(0) @ high.mT + q.clamp_max(0) @ low.mT).amax(dim=0)


def joined(chunks: Tensor, fan: int) -> Tensor:
    """Bounds `[Hkv, ceil(P / fan), 2, D]` of every `fan` of `chunks[Hkv, P, 2, D]`."""
    short = -chunks.shape[1] % fan
    if short:
        chunks = torch.cat([chunks, chunks[:, -1:].expand(-1, short, -1, -1)], dim=1)
    low, high = chunks.unflatten(1, (-1, fan)).unbind(3)
    return torch.stack([low.amin(dim=2), high.amax(dim=2)], dim=2)
