"""Groups: which tokens belong together, and which of them fill a budget."""

from __future__ import annotations

import torch
from torch import Tensor


def best_tokens(score: Tensor, group: Tensor, count: int) -> Tensor:
    """The `count` first tokens of the best groups, `int64[H, count]`, best group first.

    score: `[H, U]` of the groups, -inf for one that must not be read; group: `int64[H, S]`, that of
    each token, negative for tokens of none. Groups are taken whole by rank until the budget is
    full; the last one is cut behind its first tokens. -1 where there are no more.
    """
    heads, tokens = group.shape
    order = score.sort(dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    never = score.shape[1]
    rank = rank.masked_fill(score == -torch.inf, never)
    mine = rank.gather(1, group.clamp_min(0)) if never else torch.zeros_like(group)
    mine = mine.masked_fill(group < 0, never)
    ranked = mine.sort(dim=-1, stable=True)
    chosen = ranked.indices[:, :count]
    return chosen.masked_fill(ranked.values[:, :count] == never, -1)


def sizes(group: Tensor, groups: int) -> Tensor:
    """Tokens of each group, `int64[H, groups]`, from `group: int64[H, S]`."""
    out = torch.zeros(len(group), groups + 1, dtype=torch.int64, device=group.device)
    where = torch.where(group < 0, groups, group)
    return out.scatter_add_(1, where, torch.ones_like(where))[:, :groups]
