"""gather_attention on a CPU: pages are read where they lie."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from specdec.kernels.attention.gather_attention import gather_attention as op
from specdec.kernels.attention.level_attention import Reads
from specdec.kernels.attention.level_attention_numba import fits, with_lse


def gather_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pages: Tensor,
    length: Tensor,
    row_map: Tensor,
    *,
    page_size: int,
    scale: float,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """See `specdec.kernels.attention.gather_attention`; odd head sizes run in PyTorch."""
    if not fits(q, v):
        return op.plain(
            q, k, v, pages, length, row_map, page_size=page_size, scale=scale, softcap=softcap
        )
    batch = len(q)
    row = row_map.long()
    table = np.zeros((batch, 8), np.int64)
    table[:, 1], table[:, 3] = row.numpy(), length[row].numpy()
    table[:, 5], table[:, 6], table[:, 7] = np.arange(batch), 1, np.arange(batch) + 1
    chosen = pages.to(torch.int64).contiguous().numpy()
    reads = Reads(table, np.arange(batch), pages=chosen, page_size=page_size)
    return with_lse(q, [(k, v)], reads, scale, softcap)
