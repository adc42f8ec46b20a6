"""chunk_scores: the mean key of each chunk, and what the queries have to do with it (TriForce)."""

from __future__ import annotations

from torch import Tensor

from specdec.kernels.dispatch import dispatched
from specdec.kernels.selection.page_bounds import best, group_queries, new_units


@dispatched
def update_means(
    means: Tensor, k: Tensor, since: Tensor, length: Tensor, *, page_size: int, pages: int
) -> None:
    """Write, in place, the mean keys of the chunks that became full since `since` tokens.

    means: `[R, Hkv, P, D]` in the type of the keys; the rest is as in `page_bounds.update_bounds`,
    a chunk being a page.
    """
    for row, (a, b) in enumerate(new_units(since, length, page_size, pages)):
        full = k[row, :, a * page_size : b * page_size].unflatten(1, (b - a, page_size))
        means[row, :, a:b] = full.float().mean(2).to(means.dtype)


@dispatched
def score_means(
    q: Tensor, means: Tensor, length: Tensor, row_map: Tensor, *, page_size: int
) -> Tensor:
    """The score of each chunk's mean key, max over nodes and group heads: float32 `[B, Hkv, P]`.

    q: `[B, H, N, D]`; sequence b reads row `row_map[b]` of `means[R, Hkv, P, D]`. Not scaled; -inf
    for chunks that are not full.
    """
    scores = group_queries(q, means.shape[1]) @ means[row_map.long()].float().mT
    return best(scores, length, row_map, page_size)
