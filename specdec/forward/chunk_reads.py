"""What a chunk of a prompt reads in host memory: all that stands before it, and itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specdec.forward.forward_pass import ForwardPass
from specdec.kernels.attention.chunk_attention import ChunkReads


def chunk_reads(pass_: ForwardPass, window: int | None) -> list[ChunkReads]:
    """For each sequence of a causal pass, kept on the pass for the layers that follow.

    window: of a sliding-window layer, in tokens, the query's own included.
    """
    known = pass_.cache.chunk_reads.get(window)
    if known is None:
        made = [_of(pass_, sequence, window) for sequence in pass_.sequences]
        known = pass_.cache.chunk_reads[window] = made
    return known


def _of(pass_: ForwardPass, sequence: int, window: int | None) -> ChunkReads:
    store, count = pass_.store, pass_.positions.shape[1]
    table: list[tuple[int, int, int, int]] = []
    offset = 0
    for at, (level, rows) in enumerate(zip(store.levels, store.row_maps, strict=True)):
        row = int(rows[sequence])
        held = int(level.length[row])
        is_last = at == len(store.levels) - 1
        if held or is_last:
            table.append((at, row, held + count * is_last, offset))
        offset += held
    place = np.arange(offset, offset + count)
    first = np.zeros(count, np.int64) if window is None else np.maximum(0, place - (window - 1))
    end = place + 1
    if pass_.blocks is not None:
        end = np.maximum(end, offset + _ends(pass_.blocks.numpy()))
    return ChunkReads(np.array(table, np.int64), first, end)


def _ends(blocks: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each token the place behind the last one of its block; 0 for those of none."""
    ends = np.zeros(len(blocks), np.int64)
    for block in set(blocks.tolist()) - {-1}:
        where = np.flatnonzero(blocks == block)
        ends[where] = where[-1] + 1
    return ends
