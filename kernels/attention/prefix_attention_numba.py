"""prefix_attention on a CPU: a read for each row of the level, by all sequences that share it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from specdec.kernels.attention.level_attention import Reads
from specdec.kernels.attention.level_attention_numba import fits, with_lse
from specdec.kernels.attention.level_attention_tasks import (
    COUNT,
    END,
    FIRST,
    PAGED,
    ROW,
    START,
)
from specdec.kernels.attention.prefix_attention import prefix_attention as op

MANY = 32  # nodes from which PyTorch's own kernel, made for chunks of a prompt, is faster


def prefix_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    length: Tensor,
    row_map: Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    first: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `prefix_attention`; prompts and odd head sizes run in PyTorch."""
    nodes = q.shape[2]
    if nodes > MANY or not fits(q, v):
        return op.plain(
            q, k, v, length, row_map, scale=scale, softcap=softcap, first=first, bias=bias
        )
    reads = row_reads(length, row_map)
    if bias is not None:
        rows = reads.table[:, ROW]
        reads.table[:, PAGED] = -1 - np.arange(len(rows))
        reads = replace(reads, biases=bias.float().numpy()[rows])
    if first is None:
        return with_lse(q, [(k, v)], reads, scale, softcap)
    table, members = reads.table, reads.members
    bounds = np.zeros((len(table), int(table[:, COUNT].max(initial=0)) * nodes), np.int64)
    for i, read in enumerate(table):
        sequences = members[read[FIRST] : read[FIRST] + read[COUNT]]
        seen = first[sequences].clamp(0, read[END].item()).reshape(-1).numpy()
        bounds[i, : len(seen)] = seen
        read[START] = seen.min()
    return with_lse(q, [(k, v)], replace(reads, bounds=bounds), scale, softcap)


def row_reads(length: Tensor, row_map: Tensor) -> Reads:
    """A read of each row that is in use, up to its length, by all sequences that share it."""
    ends = length.tolist()
    sharing: dict[int, list[int]] = {}
    for b, row in enumerate(row_map.tolist()):
        sharing.setdefault(row, []).append(b)
    table = np.zeros((len(sharing), 8), np.int64)
    members: list[int] = []
    for i, (row, sequences) in enumerate(sharing.items()):
        table[i] = (0, row, 0, ends[row], 0, len(members), len(sequences), 0)
        members += sequences
    return Reads(table, np.array(members, np.int64))
