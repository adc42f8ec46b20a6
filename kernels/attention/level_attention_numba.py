"""Attention of a pass on a CPU: all levels, the staged tree and the merge in one call.

The work is cut into tasks: one KV head of one row of a level, and a part of its keys. The queries
that read this row (sequences that share it x tree nodes x heads of the group) are packed, so keys
and values are read once. Partials are merged by their log-sum-exp at the end.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba import prange
from numpy.typing import NDArray
from torch import Tensor

from specdec.kernels.attention.level_attention import NO_BIASES, NO_PAGES, NO_STAGED, Reads
from specdec.kernels.attention.level_attention import level_attention as op
from specdec.kernels.attention.level_attention_part import attend_part
from specdec.kernels.attention.level_attention_tasks import (
    LEVEL,
    READ,
    merged,
    partials,
    plan,
    row_offsets,
)
from specdec.kernels.attention.level_attention_tiles import ACROSS
from specdec.kernels.cpu.array_pointers import (
    CAPACITY,
    KEYS,
    ROWS,
    VALUES,
    floats_at,
    pointers_of_levels,
)
from specdec.kernels.cpu.function_pointers import address_of, call_pointer
from specdec.kernels.cpu.jit import OPTIONS, njit, num_threads
from specdec.kernels.cpu.simd_types import LANES
from specdec.kernels.cpu.work_stealing import next_piece, num_shares, shares

NO_SINKS = np.empty(0, np.float32)


def level_attention(
    q: Tensor,
    levels: Sequence[tuple[Tensor, Tensor]],
    reads: Reads,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """See `level_attention`; head sizes that fill no vectors run in PyTorch."""
    if not fits(q, levels[0][1]):
        return op.plain(q, levels, reads, scale=scale, softcap=softcap, sinks=sinks)
    return torch.from_numpy(_run(q, levels, reads, scale, softcap, sinks)[0].reshape(q.shape))


def fits(q: Tensor, v: Tensor) -> bool:
    """Whether the kernel takes heads of these sizes."""
    return q.shape[-1] % LANES == 0 and v.shape[-1] == q.shape[-1]


def with_lse(
    q: Tensor,
    levels: Sequence[tuple[Tensor, Tensor]],
    reads: Reads,
    scale: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """`level_attention` and its natural-log lse `[B, H, N]`, for heads that fit."""
    o, lse = _run(q, levels, reads, scale, softcap, None)
    return torch.from_numpy(o.reshape(q.shape)), torch.from_numpy(lse.reshape(q.shape[:3]))


def _run(
    q: Tensor,
    levels: Sequence[tuple[Tensor, Tensor]],
    reads: Reads,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """o and lse, flat. (numpy's reshape costs a third of PyTorch's view, 30 times a pass.)"""
    batch, heads, nodes, dim = q.shape
    levels = [(k.contiguous(), v.contiguous()) for k, v in levels]  # alive while we have addresses
    width = across(dim // LANES)
    result: tuple[NDArray[Any], NDArray[Any]] = attention(
        q.contiguous().numpy().reshape(-1),
        pointers_of_levels(levels),
        (batch, heads, levels[0][0].shape[1], nodes, dim),
        *fields_of(reads),
        np.float32(scale),
        np.float32(softcap or 0.0),
        NO_SINKS if sinks is None else sinks.detach().float().numpy(),
        num_threads(),
        width,
        part_at(width),
    )
    return result


def fields_of(reads: Reads) -> tuple[Any, ...]:
    """What `attention` takes of the reads of a pass."""
    bounds = np.ascontiguousarray(reads.bounds)
    return reads.table, reads.members, reads.anc, bounds, reads.pages, reads.page_size, reads.biases


def across(vectors: int) -> tuple[Any, ...]:
    """Vectors of an output that stay in registers together; kernels compile for each number."""
    return ACROSS if vectors % len(ACROSS) == 0 else (0, 0) if vectors % 2 == 0 else (0,)


@functools.cache
def part_at(width: tuple[int, ...]) -> int:
    """The address of `attend_part` for such outputs."""
    some, read, one = np.empty(0, np.float32), np.empty(0, np.int64), np.float32(0)
    given = some, some, some, 0, (0,) * 5, read, read, read, NO_STAGED, read, NO_PAGES, 0, NO_BIASES
    return address_of(attend_part, *given, one, one, some, some, some, width)


@njit(**OPTIONS)
def attention(
    q, levels, shape, reads, members, anc, bounds, pages, page_size, biases, scale, softcap,
    sinks, threads, width, part,
):  # fmt: skip
    """Attention of `q[B, heads, nodes, dim]` over `reads` of the levels, flat.

    levels: `pointers_of_levels`. shape: (B, heads, kv_heads, nodes, dim).
    reads, members, anc, bounds, pages, page_size, biases: fields of `Reads`.
    softcap 0 is none; sinks `[heads]` or empty; threads that the work is cut for; part: `part_at`
    the width. Returns o as q and the lse.
    """
    _, heads, kv_heads, nodes, dim = shape
    tasks = plan(reads, pages, page_size, kv_heads, threads, bounds.size > 0)
    count = len(tasks)
    offsets = row_offsets(tasks, reads, nodes * (heads // kv_heads))
    o, top, total = partials(offsets[count], dim)
    todo = shares(count)
    for thread in prange(num_shares(todo)):
        while True:
            t = next_piece(todo, thread, count)
            if t < 0:
                break
            i = tasks[t, READ]
            read = reads[i]
            level = levels[read[LEVEL]]
            size = level[ROWS] * kv_heads * level[CAPACITY] * dim
            bound = bounds[i] if bounds.size else bounds[:0].reshape(-1)
            at, to = offsets[t], offsets[t + 1]
            given = (
                q, floats_at(level[KEYS], size), floats_at(level[VALUES], size), level[CAPACITY],
                shape, read, tasks[t], members, anc, bound, pages, page_size, biases, scale,
                softcap, o[at * dim : to * dim], top[at:to], total[at * LANES : to * LANES], width,
            )  # fmt: skip
            call_pointer(attend_part, part, given)
    return merged(o, top, total, shape, reads, members, tasks, offsets, sinks)
