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
    """Attention that some queries pay to each token of a text, `per_sight`: `[Hkv, G, S]`."""
    total = None
    for part in torch.arange(len(queries.at), device=queries.at.device).split(AT_ONCE):
        found = text.attention(Queries(queries.q[:, part], queries.at[part])).sum(dim=2)
        total = found if total is None else total.add_(found)
    assert total is not None
    return per_sight(total, queries.at)


def per_sight(sums: Tensor, positions: Tensor) -> Tensor:
    """Sums `[..., S]` of the attention of queries at `positions`, by how many of them see a token.

    Sums over all queries of a prompt favour its first tokens, which all of them see (ZipCache,
    arXiv 2405.14256, eq. 8). A token that none of them sees gets 0.
    """
    return sums / visible(positions, sums.shape[-1]).clamp_min(1).to(sums)
