"""select_pages on a CPU: softmax, votes, pooling and the choice of the best in one call."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from specdec.kernels.cpu import simd, simd_lanes, simd_memory
from specdec.kernels.cpu.jit import SERIAL, inner, njit, num_threads
from specdec.kernels.cpu.simd_types import LANES
from specdec.kernels.selection.index_dots_numba import all_dots
from specdec.kernels.selection.index_logits_numba import flattened


def select_pages(
    logits: Tensor,
    *,
    votes: str,
    pool: int,
    per_page: int,
    all_heads: bool,
    count: int,
    first: int,
    last: int,
) -> Tensor:
    """See `specdec.kernels.selection.select_pages`."""
    heads, pages = len(logits), logits.shape[2] // per_page
    out = torch.empty(heads, count, dtype=torch.int64)
    scores = np.zeros((heads, pages), np.float32)
    _choose(
        logits.contiguous().numpy(), votes == "max", pool, per_page, scores, all_heads, first, last,
        out.numpy(),
    )  # fmt: skip
    return out


def select_by_index(
    q: Tensor,
    index: Tensor,
    *,
    scale: float,
    signed: bool,
    votes: str,
    pool: int,
    all_heads: bool,
    count: int,
    first: int,
    last: int,
) -> Tensor:
    """See `specdec.kernels.selection.select_pages`."""
    num_threads()
    flat, stride = flattened(index)
    chosen = np.empty((len(q), count), np.int64)
    choose_by_index(
        q.contiguous().numpy(), flat, stride, index.shape[1], np.float32(scale),
        (signed, votes == "max", pool, all_heads, first, last), chosen,
    )  # fmt: skip
    return torch.from_numpy(chosen)


@njit(**SERIAL)
def choose_by_index(q, index, stride, pages, scale, how, out):
    """Fill `out[Hkv, count]` in one call, because entering a kernel costs a sixth of what choosing
    does. how: (signed, votes are by the largest, pool, all_heads, first, last)."""
    signed, by_max, pool, all_heads, first, last = how
    heads = len(q)
    logits = np.empty((heads, q.shape[1], pages), np.float32)
    all_dots(q, signed, index, stride, scale, logits)
    scores = np.zeros((heads, pages), np.float32)
    _choose(logits, by_max, pool, 1, scores, all_heads, first, last, out)


@njit(**SERIAL)
def _choose(logits, by_max, pool, per_page, scores, all_heads, first, last, out):
    heads, pages = scores.shape
    for head in range(heads):
        _importance(logits, head, by_max, pool, per_page, scores[head])
    if all_heads:
        for head in range(1, heads):
            for page in range(pages):
                scores[0, page] = max(scores[0, page], scores[head, page])
    for head in range(heads):
        _best(scores[0 if all_heads else head], first, last, out[head])


@inner
def _importance(logits, head, by_max, pool, per_page, score):
    count, size = logits.shape[1:]
    room = (size + LANES - 1) // LANES * LANES
    line, votes = np.empty(room, np.float32), np.zeros(size, np.float32)
    for m in range(count):
        for i in range(size):
            line[i] = logits[head, m, i]
        for i in range(size, room):
            line[i] = -np.inf
        share = np.float32(1) / _exponentials(line)
        if not by_max:
            share /= np.float32(count)
            for i in range(size):
                votes[i] += line[i] * share
        elif per_page == 1:
            for page in range(size):
                mass = line[page] * share
                score[page] = mass if mass > score[page] else score[page]
        else:
            for page in range(len(score)):
                mass = _sum(line, page * per_page, per_page) * share
                score[page] = max(score[page], mass)
    if not by_max:
        for page in range(len(score)):
            score[page] = _sum(votes, page * per_page, per_page)
    if pool > 1:
        _pooled(score, pool)


@inner
def _exponentials(line):
    """Weights of a softmax in place, relative to the largest; returns their sum."""
    best = simd_memory.load(line, 0, 1)
    for i in range(0, line.size, LANES):
        best = simd.maximum(best, simd_memory.load(line, i, 1))
    minus = simd.splat(best, -simd_lanes.max_lanes(best))
    total = simd.zeros((0,), 1)
    for i in range(0, line.size, LANES):
        weights = simd.exp_or_zero(simd.add(simd_memory.load(line, i, 1), minus))
        simd_memory.store(weights, line, i, 0, 1)
        total = simd.add(total, weights)
    return simd_lanes.sum_lanes(total)


@inner
def _sum(x, at, count):
    total = np.float32(0)
    for i in range(at, at + count):
        total += x[i]
    return total


@inner
def _pooled(score, pool):
    """A moving average in place, over what is there of `pool` neighbours."""
    pages = len(score)
    plain = np.empty(pages, np.float32)
    for page in range(pages):
        plain[page] = score[page]
    for page in range(pages):
        start, end = max(0, page - pool // 2), min(pages, page - pool // 2 + pool)
        total = np.float32(0)
        for i in range(start, end):
            total += plain[i]
        score[page] = total / np.float32(end - start)


@inner
def _best(score, first, last, out):
    """The places of the largest scores, best first, once sinks and the recent are put in front."""
    pages, count = len(score), len(out)
    for page in range(pages - last, pages):
        score[page] = 2
    for page in range(min(first, pages)):
        score[page] = 3
    for i in range(count):  # `out` is a heap with the worst of the chosen at its root
        out[i] = i
    for i in range(count // 2 - 1, -1, -1):
        _sink(out, i, count, score)
    least = score[out[0]] if count else np.float32(np.inf)
    for page in range(count, pages):
        if score[page] > least:
            out[0] = page
            _sink(out, 0, count, score)
            least = score[out[0]]
    for end in range(count - 1, 0, -1):  # the worst goes to the end of what is not sorted yet
        out[0], out[end] = out[end], out[0]
        _sink(out, 0, end, score)


@inner
def _sink(heap, at, size, score):
    """Move a place down its heap until nothing below it has a smaller score."""
    while 2 * at + 1 < size:
        below = 2 * at + 1
        if below + 1 < size and score[heap[below + 1]] < score[heap[below]]:
            below += 1
        if score[heap[at]] <= score[heap[below]]:
            return
        heap[at], heap[below] = heap[below], heap[at]
        at = below
