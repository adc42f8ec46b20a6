"""tree_attention on a CPU: a read of nothing but staged nodes for each sequence."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from specdec.kernels.attention.level_attention import Reads
from specdec.kernels.attention.level_attention_numba import fits, with_lse
from specdec.kernels.attention.tree_attention import tree_attention as op
from specdec.kernels.attention.tree_attention import windowed


def tree_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    anc: Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    q_positions: Tensor | None = None,
    k_positions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `specdec.kernels.attention.tree_attention`; odd head sizes run in PyTorch."""
    if not fits(q, v):
        return op.plain(
            q, k, v, anc, scale=scale, softcap=softcap, window=window, q_positions=q_positions,
            k_positions=k_positions,
        )  # fmt: skip
    if window is not None:
        assert q_positions is not None and k_positions is not None
        anc = windowed(anc, window, q_positions, k_positions)
    batch, staged = k.shape[0], k.shape[2]
    table = np.zeros((batch, 8), np.int64)
    table[:, 1] = table[:, 5] = np.arange(batch)
    table[:, 4], table[:, 6] = staged, 1
    words = anc.contiguous().numpy().view(np.uint64)
    reads = Reads(table, np.arange(batch), words)
    return with_lse(q, [(k.contiguous(), v.contiguous())], reads, scale, softcap)
