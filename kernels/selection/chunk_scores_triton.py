"""chunk_scores on a GPU: the kernels of page_bounds, with one vector for a chunk instead of two."""

from __future__ import annotations

from torch import Tensor

from specdec.kernels.selection.index_scores_triton import score
from specdec.kernels.selection.page_bounds_triton import summarise


def update_means(
    means: Tensor, k: Tensor, since: Tensor, length: Tensor, *, page_size: int, pages: int
) -> None:
    """See `specdec.kernels.selection.chunk_scores`."""
    summarise(means, k, since, length, page_size=page_size, pages=pages, mean=True)


def score_means(
    q: Tensor, means: Tensor, length: Tensor, row_map: Tensor, *, page_size: int
) -> Tensor:
    """See `specdec.kernels.selection.chunk_scores`."""
    return score(q, means, length, row_map, unit=page_size)
