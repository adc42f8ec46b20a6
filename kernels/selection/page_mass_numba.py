"""page_mass on a CPU: scores as attention makes them, and their weights summed by page."""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import prange
from torch import Tensor

from specdec.kernels.attention.level_attention_numba import fits
from specdec.kernels.attention.level_attention_part import locate, packed_queries
from specdec.kernels.attention.level_attention_tasks import padded
from specdec.kernels.attention.level_attention_tiles import (
    ACROSS,
    BLOCK,
    NEVER,
    TILE,
    VECTORS,
    score,
    transpose_keys,
)
from specdec.kernels.cpu import simd, simd_memory
from specdec.kernels.cpu.jit import OPTIONS, inner, njit, num_threads
from specdec.kernels.selection.page_mass import page_mass as op

PART = 1024  # keys of a task, at least


def page_mass(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    length: Tensor,
    row_map: Tensor,
    *,
    page_size: int,
    scale: float,
    softcap: float | None = None,
    votes: str = "max",
) -> Tensor:
    """See `specdec.kernels.selection.page_mass`; head sizes that fill no vectors run in PyTorch."""
    if not fits(q, k):
        return op.plain(
            q, k, lse, length, row_map, page_size=page_size, scale=scale, softcap=softcap,
            votes=votes,
        )  # fmt: skip
    num_threads()
    batch, heads, nodes, dim = q.shape
    kv_heads, capacity = k.shape[1:3]
    out = torch.zeros(batch, kv_heads, -(-capacity // page_size))
    _mass(
        q.contiguous().numpy().reshape(-1), k.contiguous().numpy(),
        lse.float().contiguous().numpy().reshape(-1), length.numpy(), row_map.numpy(),
        (batch, heads, kv_heads, nodes, dim), page_size, np.float32(scale),
        np.float32(softcap or 0.0), votes == "mean", out.numpy(),
    )  # fmt: skip
    return out


@njit(**OPTIONS)
def _mass(q, k, lse, length, row_map, shape, page_size, scale, softcap, mean, out):
    """Fill `out[B, Hkv, P]`. A task is one KV head of a sequence, and whole pages of it."""
    batch, heads, kv_heads, nodes, dim = shape
    pages = max(1, PART // page_size)
    parts = (out.shape[2] + pages - 1) // pages
    group = heads // kv_heads
    for t in prange(batch * kv_heads * parts):
        b, head, first = t // (kv_heads * parts), t // parts % kv_heads, t % parts * pages
        at = (b * heads + head * group) * nodes
        _add_masses(
            q, k, lse[at : at + group * nodes], row_map[b], length[row_map[b]], b, head, shape,
            page_size, first, min(out.shape[2], first + pages), scale, softcap, mean,
            out[b, head],
        )  # fmt: skip


@inner
def _add_masses(
    q, k, lse, row, length, b, head, shape, page_size, first, last, scale, softcap, mean, out
):
    _, heads, kv_heads, nodes, dim = shape
    rows = len(lse)
    read, members = np.array([0, 0, 0, 0, 0, 0, 1, 0]), np.full(1, b)
    packed = packed_queries(q, shape, read, head, members, scale)
    keys = k.reshape(-1)
    base = (row * kv_heads + head) * k.shape[2] * dim
    columns = np.empty(dim * BLOCK, np.float32)
    scores = np.empty(padded(rows) * BLOCK, np.float32)
    masses = np.zeros((rows, last - first), np.float32)
    where = np.empty(BLOCK, np.int64)
    end = min(length, last * page_size)
    for block in range(first * page_size, end, BLOCK):
        locate(where, block, end, where[:0], base, dim)
        size = min(BLOCK, end - block)
        transpose_keys(keys, where, size, dim, columns)
        for r in range(0, rows, len(TILE)):
            score(columns, packed, r, dim, scores, keys, where, NEVER, 0)
        for r in range(rows):
            if softcap > 0:
                for c in range(r * BLOCK, r * BLOCK + size):
                    scores[c] = softcap * math.tanh(scores[c] / softcap)
            line = simd_memory.load(scores, r * BLOCK, ACROSS)
            weights = simd.exp(simd.add(line, simd.splat(line, -lse[r])))
            simd_memory.store(weights, scores, r * BLOCK, 0, VECTORS)
            for c in range(size):
                masses[r, (block + c) // page_size - first] += scores[r * BLOCK + c]
    for r in range(rows):
        for page in range(last - first):
            if mean:
                out[first + page] += masses[r, page] / rows
            else:
                out[first + page] = max(out[first + page], masses[r, page])
