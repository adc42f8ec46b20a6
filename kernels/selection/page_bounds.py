"""page_bounds: the least and greatest key of each page, and the bound they put on its scores.

Quest (Tang et al., 2024): for every channel a page's keys lie between a minimum and a maximum, so
sum_d max(q_d * min_d, q_d * max_d) is at least q.k for each of them. Only full, committed pages are
summarised, so nothing need ever be taken back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.dispatch import dispatched


@dispatched
def update_bounds(
    bounds: Tensor, k: Tensor, since: Tensor, length: Tensor, *, page_size: int, pages: int
) -> None:
    """Write, in place, the bounds of the pages that became full since `since` tokens were there.

    bounds: `[R, Hkv, P, 2, D]` in the type of the keys, minimum before maximum; k:
    `[R, Hkv, C, D]` with C >= P * page_size; since, length: `int32[R]`. At most `pages` pages of a
    row are written: P to build all of them, else as many as one pass can fill.
    """
    for row, (a, b) in enumerate(new_units(since, length, page_size, pages)):
        full = k[row, :, a * page_size : b * page_size].unflatten(1, (b - a, page_size))
        if b > a:
            bounds[row, :, a:b] = torch.stack(full.aminmax(dim=2), dim=2)


@dispatched
def score_bounds(
    q: Tensor, bounds: Tensor, length: Tensor, row_map: Tensor, *, page_size: int
) -> Tensor:
    """The greatest score that any query may have with any key of a page: float32 `[B, Hkv, P]`.

    q: `[B, H, N, D]`; sequence b reads row `row_map[b]` of `bounds[R, Hkv, P, 2, D]`. Reduced by
    max over the N nodes and the heads of the group. Not scaled; -inf for pages that are not full.
    """
    grouped = group_queries(q, bounds.shape[1])
    index = bounds[row_map.long()].float()
    low, high = index[:, :, :, 0].mT, index[:, :, :, 1].mT
    scores = grouped.clamp_min(0) @ high + grouped.clamp_max(0) @ low
    return best(scores, length, row_map, page_size)


def group_queries(q: Tensor, kv_heads: int) -> Tensor:
    """`q[B, H, N, D]` as float32 `[B, Hkv, G * N, D]`: what one kv head is asked."""
    batch, heads, nodes, dim = q.shape
    return q.float().reshape(batch, kv_heads, heads // kv_heads * nodes, dim)


def best(scores: Tensor, length: Tensor, row_map: Tensor, unit: int) -> Tensor:
    """Max of `scores[B, Hkv, M, U]` over the queries, -inf for units of `unit` keys not full."""
    full = torch.arange(1, scores.shape[-1] + 1, device=scores.device) * unit
    whole = full <= length[row_map.long()][:, None, None]
    return scores.amax(2).masked_fill(~whole, -torch.inf)


def new_units(since: Tensor, length: Tensor, unit: int, most: int) -> list[tuple[int, int]]:
    """Per row, the units of `unit` tokens that became full between two lengths, at most `most`."""
    pairs = zip((since // unit).tolist(), (length // unit).tolist(), strict=True)
    return [(a, max(a, min(b, a + most))) for a, b in pairs]
