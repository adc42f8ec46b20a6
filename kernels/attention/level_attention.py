"""level_attention: a whole pass over levels in host memory, staged tree and merge included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from specdec.kernels.attention.gather_attention import gather_attention
from specdec.kernels.attention.merge import merge
from specdec.kernels.attention.softmax import partial_softmax
from specdec.kernels.attention.tree_attention import unpack
from specdec.kernels.dispatch import dispatched

# Keys are attended in parts that begin at these multiples, and the parts merged in order: so it is
# where the text stands that says how sums are made, and not who reads it.
PART = 256
NO_BOUNDS = np.zeros((0, 0), np.int64)
NO_PAGES = np.zeros((0, 0, 0), np.int64)
NO_STAGED = np.zeros((0, 0, 0), np.uint64)
NO_BIASES = np.zeros((0, 0, 0), np.float32)


@dataclass(frozen=True)
class Reads:
    """What a pass reads, the same for all layers of a kind but for the pages.

    table: `int64[R, 8]`, a read a row: level, row of it, first key, end, tail, first member, member
        count, and 0, or one plus an index into `pages`, or minus one minus an index into `biases`.
        A tail is the number of staged slots that stand behind `end` in that row; the ancestor mask
        rules them, and such a read has one member.
    members: `int64[M]`, the sequences of the batch that share each read's keys, one after another.
    anc: `uint64[B, N, W]`, the ancestor bitmask over staged slots.
    bounds: for each read `count * N` first visible keys (sliding windows), as `int64[R, most]`, or
        an empty `[0, 0]` where every key up to the end is visible.
    pages: `int64[K, Hkv, P]`, chosen pages of `page_size` keys for each KV head, in any order, with
        -1 for none. A read that names them has neither tail nor bounds, and sees their keys below
        its end, wherever it starts.
    biases: `float32[K, Hkv, n]`, added to the logits of a read's keys, after any soft cap; -inf
        hides a key. A read that names them has no tail.
    """

    table: NDArray[np.int64]
    members: NDArray[np.int64]
    anc: NDArray[np.uint64] = field(default_factory=lambda: NO_STAGED)
    bounds: NDArray[np.int64] = field(default_factory=lambda: NO_BOUNDS)
    pages: NDArray[np.int64] = field(default_factory=lambda: NO_PAGES)
    page_size: int = 1
    biases: NDArray[np.float32] = field(default_factory=lambda: NO_BIASES)


@dispatched
def level_attention(
    q: Tensor,
    levels: Sequence[tuple[Tensor, Tensor]],
    reads: Reads,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attention of `q[B, H, N, D]` over what `reads` says of the levels; o `[B, H, N, D]` as q.

    levels: (k, v), each `[rows, Hkv, capacity, D]`. sinks: `[H]` extra logits without a value.
    A query that sees no key gets 0.
    """
    batch, heads, nodes, dim = q.shape
    partials: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(batch)]
    for i, (level, row, start, end, tail, first, count, paged) in enumerate(reads.table.tolist()):
        k, v = levels[level]
        members = reads.members[first : first + count].tolist()
        if paged > 0:
            pages = torch.from_numpy(reads.pages[paged - 1 : paged]).to(q.device)
            ends = torch.tensor([end], dtype=torch.int32, device=q.device)
            for b in members:
                partials[b].append(
                    gather_attention.plain(
                        q[b : b + 1], k[row : row + 1], v[row : row + 1], pages, ends, ends * 0,
                        page_size=reads.page_size, scale=scale, softcap=softcap,
                    )
                )  # fmt: skip
            continue
        keys, values = (
            k[row : row + 1, :, start : end + tail],
            v[row : row + 1, :, start : end + tail],
        )
        for place, b in enumerate(members):
            visible = torch.ones(nodes, end + tail - start, dtype=torch.bool, device=q.device)
            if tail:
                words = torch.from_numpy(reads.anc[b : b + 1].view(np.int64)).to(q.device)
                visible[:, end - start :] = unpack(words, tail)[0]
            if reads.bounds.size:
                bound = torch.from_numpy(reads.bounds[i, place * nodes : (place + 1) * nodes])
                bound = bound.to(q.device)
                visible &= torch.arange(start, end + tail, device=q.device) >= bound[:, None]
            bias = None
            if paged < 0:
                bias = torch.from_numpy(reads.biases[-paged - 1, :, start:end]).to(q)
            partials[b].append(_read(q[b : b + 1], keys, values, visible, scale, softcap, bias))
    out = []
    for b in range(batch):
        if sinks is not None:
            empty = q.new_zeros(1, heads, nodes, dim)
            partials[b].append((empty, sinks.to(q.dtype)[None, :, None].expand(1, heads, nodes)))
        nothing = q.new_zeros(1, heads, nodes, dim)
        out.append(merge.plain(partials[b])[0] if partials[b] else nothing)
    return torch.cat(out).to(q.dtype)


def _read(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor,
    scale: float,
    softcap: float | None,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    _, heads, nodes, dim = q.shape
    group = heads // k.shape[1]
    o, lse = partial_softmax(
        q.reshape(1, k.shape[1], group * nodes, dim),
        k,
        v,
        scale=scale,
        softcap=softcap,
        visible=visible.repeat(group, 1),
        bias=None if bias is None else bias[None, :, None],
    )
    return o.reshape(1, heads, nodes, -1), lse.reshape(1, heads, nodes)
