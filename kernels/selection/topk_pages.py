"""topk_pages: the pages that a pass will read, by their scores, per kv head."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from specdec.kernels.dispatch import dispatched


@dispatched
def topk_pages(
    scores: Tensor,
    pages: Tensor,
    tail: Tensor,
    *,
    page_size: int,
    budget: int,
    sink: int,
    recent: int,
) -> Tensor:
    """The best of the first `pages[b]` pages, best first: `int32[B, Hkv, budget // page_size]`.

    scores: float `[B, Hkv, P]`, finite for those pages; may be changed in place. pages: `int32[B]`,
    full pages of each sequence; tail: `int32[B]`, its tokens behind them, which are read besides
    and take their share of the budget. Pages of the `sink` first tokens come before all others,
    then those of the `recent` last ones, the tail included. Equal scores come in any order. What
    the budget leaves free is padded with -1; the result has no more of them than there are pages.
    """
    width = most_pages(scores.shape[2], page_size, budget)
    highest = torch.finfo(scores.dtype).max
    chosen = []
    for score, full, behind in zip(scores, pages.tolist(), tail.tolist(), strict=True):
        count = min(full, max(0, budget - behind) // page_size)
        last = min(full, -(-max(0, recent - behind) // page_size))
        score = score[:, :full]
        if last:
            score[:, full - last :] = highest
        if sink:
            score[:, : -(-sink // page_size)] = torch.inf
        best = score.topk(count, dim=-1).indices.to(torch.int32)
        chosen.append(best if count == width else pad(best, (0, width - count), value=-1))
    return chosen[0][None] if len(chosen) == 1 else torch.stack(chosen)


def most_pages(pages: int, page_size: int, budget: int) -> int:
    """Pages that fit into the budget: the width of the result, known on the host."""
    return min(pages, budget // page_size)
