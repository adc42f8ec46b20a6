"""page_bounds on a CPU: a page's bounds as one vector of twice the head's size."""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.kernels.cpu.jit import SERIAL, njit
from specdec.kernels.selection.index_dots_numba import best_dots, new_units
from specdec.kernels.selection.page_bounds import group_queries


def update_bounds(
    bounds: Tensor, k: Tensor, since: Tensor, length: Tensor, *, page_size: int, pages: int
) -> None:
    """See `specdec.kernels.selection.page_bounds`."""
    _update(bounds.numpy(), k.numpy(), new_units(since, length, page_size, pages), page_size)


def score_bounds(
    q: Tensor, bounds: Tensor, length: Tensor, row_map: Tensor, *, page_size: int
) -> Tensor:
    """See `specdec.kernels.selection.page_bounds`."""
    grouped = group_queries(q, bounds.shape[1])
    signed = torch.cat([grouped.clamp_max(0), grouped.clamp_min(0)], dim=-1)
    return best_dots(signed, bounds.flatten(3), length, row_map, page_size)


@njit(**SERIAL)
def _update(bounds, k, pages, page_size):
    heads, dim = k.shape[1], k.shape[3]
    for row in range(len(pages)):
        for h in range(heads):
            for page in range(pages[row, 0], pages[row, 1]):
                low, high = bounds[row, h, page, 0], bounds[row, h, page, 1]
                for d in range(dim):
                    low[d] = high[d] = k[row, h, page * page_size, d]
                for key in range(page * page_size + 1, (page + 1) * page_size):
                    for d in range(dim):
                        x = k[row, h, key, d]
                        low[d] = min(low[d], x)
                        high[d] = max(high[d], x)
