"""ColumnSums: all the attention that a token was ever paid, from some of the queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specdec.forward.plan import Needs
from specdec.forward.prompt_queries import Queries
from specdec.sparse.maths.window_scores import visible
from specdec.sparse.text import Text

EVERY = 10  # a tenth of the queries are probes, as in ZipCache (arXiv 2405.14256)
AT_ONCE = 128  # of them, whose attention stands in memory together


@dataclass(frozen=True)
class ColumnSums:
    """Attention summed over the queries of the prompt, mean over all heads (PrefixKV).

    The paper's maps are whole; here a tenth of the queries speak for all.
    """

    page_size = 1

    @property
    def needs(self) -> Needs:
        return Needs(probe_every=EVERY)

    def scores(self, text: Text) -> Tensor | None:
        """See `Importance`: the same for every KV head."""
        if text.probes is None or not len(text.probes.at):
            return None
        sums = summed(text, text.probes)
        return sums.mean(dim=(0, 1)).expand(sums.shape[0], -1).contiguous()


def summed(text: Text, queries: Queries) -> Tensor:
    """`column_sums` of some queries of a text, `[Hkv, G, S]`."""
    total = None
    for part in torch.arange(len(queries.at), device=queries.at.device).split(AT_ONCE):
        found = text.attention(Queries(queries.q[:, part], queries.at[part])).sum(dim=2)
        total = found if total is None else total.add_(found)
    assert total is not None
    return total / visible(queries.at, text.length).clamp_min(1).to(total)


def column_sums(attention: Tensor, positions: Tensor) -> Tensor:
    """Attention per query that could see a token, summed over queries: `[Hkv, G, S]`.

    attention: `[Hkv, G, w, S]` of queries at `positions: int64[w]`. Sums over all queries of a
    prompt favour its first tokens, which all of them see; so each is divided by how many of these
    queries see it (ZipCache, arXiv 2405.14256, eq. 8). A token that none of them sees gets 0.
    """
    count = visible(positions, attention.shape[-1]).clamp_min(1)
    return attention.sum(dim=2) / count.to(attention)
