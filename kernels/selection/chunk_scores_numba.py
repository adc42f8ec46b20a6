"""chunk_scores on a CPU."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from specdec.kernels.cpu.jit import SERIAL, njit
from specdec.kernels.selection.index_dots_numba import best_dots, new_units
from specdec.kernels.selection.page_bounds import group_queries


def update_means(
    means: Tensor, k: Tensor, since: Tensor, length: Tensor, *, page_size: int, pages: int
) -> None:
    """See `specdec.kernels.selection.chunk_scores`."""
    _update(means.numpy(), k.numpy(), new_units(since, length, page_size, pages), page_size)


def score_means(
    q: Tensor, means: Tensor, length: Tensor, row_map: Tensor, *, page_size: int
) -> Tensor:
    """See `specdec.kernels.selection.chunk_scores`."""
    return best_dots(group_queries(q, means.shape[1]), means, length, row_map, page_size)


@njit(**SERIAL)
def _update(means, k, chunks, page_size):
    heads, dim = k.shape[1], k.shape[3]
    for row in range(len(chunks)):
        for h in range(heads):
            for chunk in range(chunks[row, 0], chunks[row, 1]):
                total = np.zeros(dim, np.float32)
                for key in range(chunk * page_size, (chunk + 1) * page_size):
                    for d in range(dim):
                        total[d] += k[row, h, key, d]
                for d in range(dim):
                    means[row, h, chunk, d] = total[d] / np.float32(page_size)
