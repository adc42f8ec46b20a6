"""column_sums: all the attention that a token was ever paid, from some of the queries."""

from __future__ import annotations

from torch import Tensor

from specdec.sparse.maths.window_scores import visible


def column_sums(attention: Tensor, positions: Tensor) -> Tensor:
    """Attention per query that could see a token, summed over queries: `[Hkv, G, S]`.

    attention: `[Hkv, G, w, S]` of queries at `positions: int64[w]`. Sums over all queries of a
    prompt favour its first tokens, which all of them see; so each is divided by how many of these
    queries see it (ZipCache, arXiv 2405.14256, eq. 8). A token that none of them sees gets 0.
    """
    count = visible(positions, attention.shape[-1]).clamp_min(1)
    return attention.sum(dim=2) / count.to(attention)
