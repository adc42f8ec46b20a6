"""chunk_attention: a chunk of a prompt over all that stands before it and over itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.softmax import causal_softmax, partial_softmax
from specdec.kernels.dispatch import dispatched


@dataclass(frozen=True)
class ChunkReads:
    """What a chunk of N tokens of one text reads.

    table: `int64[R, 4]`, a stretch of the text a row, in order: level, row of it, tokens there, and
        the position of the first one. The chunk's own tokens are the last N of the last stretch.
    first, end: `int64[N]`, the positions that each token sees: from the one on and below the other.
    """

    table: NDArray[np.int64]
    first: NDArray[np.int64]
    end: NDArray[np.int64]


@dispatched
def chunk_attention(
    q: Tensor,
    levels: Sequence[tuple[Tensor, Tensor]],
    reads: ChunkReads,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attention of `q[1, H, N, D]` over what `reads` says of the levels; o `[1, H, N, Dv]` as q.

    levels: (k, v), each `[rows, Hkv, capacity, D]`. sinks: `[H]` extra logits without a value. A
    token that sees nothing gets 0. On a CPU with Numba a token's bits are those that it has as a
    node of a tree (`level_attention`), whatever chunk it stands in, where stretches begin at whole
    multiples of `PART`.
    """
    _, heads, count, _ = q.shape
    first, end = (torch.from_numpy(x).to(q.device) for x in (reads.first, reads.end))
    total = int(reads.table[-1, 3] + reads.table[-1, 2])
    own = torch.arange(total - count, total, device=q.device)
    partials = []
    for at, (level, row, length, offset) in enumerate(reads.table.tolist()):
        k, v = levels[level]
        behind = at == len(reads.table) - 1
        before = length - count if behind else length
        parts = [(0, before)] if not behind else [(0, before), (before, length)]
        for start, stop in parts:
            if start == stop:
                continue
            keys, values = k[row : row + 1, :, start:stop], v[row : row + 1, :, start:stop]
            where = torch.arange(offset + start, offset + stop, device=q.device)
            is_own = start == before
            if is_own and not bool(first.any()) and torch.equal(end, own + 1):
                partials.append(causal_softmax(q, keys, values, scale=scale, softcap=softcap))
                continue
            visible = (where >= first[:, None]) & (where < end[:, None])
            partials.append(_read(q, keys, values, visible, scale, softcap))
    if sinks is not None:
        empty = torch.zeros_like(partials[0][0])
        partials.append((empty, sinks.to(empty)[None, :, None].expand(1, heads, count)))
    return merge.plain(partials)[0].to(q.dtype)


def _read(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    _, heads, count, dim = q.shape
    group = heads // k.shape[1]
    seen = None if bool(visible.all()) else visible.repeat(group, 1)
    o, lse = partial_softmax(
        q.reshape(1, k.shape[1], group * count, dim), k, v, scale=scale, softcap=softcap,
        visible=seen,
    )  # fmt: skip
    return o.reshape(1, heads, count, -1), lse.reshape(1, heads, count)
