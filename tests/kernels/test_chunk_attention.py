"""chunk_attention against a softmax in float64, over levels, windows, blocks, caps and sinks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.kernels.attention.chunk_attention import ChunkReads, chunk_attention
from specdec.kernels.attention.level_attention import PART


@st.composite
def cases(draw):
    """q, levels, reads and settings: stretches before the chunk, spans of tokens that it sees."""
    random = torch.Generator().manual_seed(draw(st.integers(0, 1 << 20)))
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    count, dim = draw(st.integers(1, 90)), draw(st.sampled_from([16, 32, 80]))
    held = [draw(st.sampled_from([1, 2])) * PART for _ in range(draw(st.integers(0, 2)))]
    held.append(draw(st.integers(0, 300)))
    levels, table, offset = [], [], 0
    for i, size in enumerate(held):
        size += count if i == len(held) - 1 else 0
        room = (2, kv_heads, size + draw(st.integers(0, 9)), dim)
        pair = torch.full(room, torch.nan), torch.full(room, torch.nan)
        row = draw(st.integers(0, 1))
        for x in pair:
            x[row, :, :size] = torch.randn(kv_heads, size, dim, generator=random)
        levels.append(pair)
        table.append((i, row, size, offset))
        offset += size
    place = np.arange(offset - count, offset)
    window = draw(st.sampled_from([0, 1, 7, 100, 400]))
    first = np.maximum(0, place - window + 1) if window else np.zeros(count, np.int64)
    end = place + 1
    if draw(st.booleans()):  # tokens of a block see each other
        low, high = sorted(draw(st.tuples(st.integers(0, count), st.integers(0, count))))
        end[low:high] = np.maximum(end[low:high], offset - count + high)
    reads = ChunkReads(np.array(table, np.int64), first.astype(np.int64), end.astype(np.int64))
    softcap = draw(st.sampled_from([None, 5.0]))
    heads = kv_heads * group
    sinks = torch.randn(heads, generator=random) if draw(st.booleans()) else None
    q = torch.randn(1, heads, count, dim, generator=random)
    return q, levels, reads, {"scale": dim**-0.5, "softcap": softcap, "sinks": sinks}


def reference(q, levels, reads, *, scale, softcap, sinks):
    group = q.shape[1] // levels[0][0].shape[1]
    keys, values = (
        torch.cat([levels[at][i][row, :, :n] for at, row, n, _ in reads.table.tolist()], 1)
        .double()
        .repeat_interleave(group, 0)
        for i in (0, 1)
    )
    scores = q[0].double() @ keys.mT * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    where = torch.arange(keys.shape[1])
    first, end = torch.from_numpy(reads.first)[:, None], torch.from_numpy(reads.end)[:, None]
    scores = scores.masked_fill(~((where >= first) & (where < end)), -torch.inf)
    if sinks is not None:
        sink = sinks.double()[:, None, None].expand(-1, scores.shape[1], 1)
        scores = torch.cat([scores, sink], -1)
    return (scores.softmax(-1)[..., : keys.shape[1]] @ values)[None]


@settings(max_examples=40, deadline=None)
@given(cases())
def test_plain_is_a_softmax(case):
    q, levels, reads, how = case
    wanted = reference(q, levels, reads, **how)
    assert (chunk_attention.plain(q, levels, reads, **how) - wanted).abs().max() < 2e-5


@settings(max_examples=60, deadline=None)
@given(cases())
def test_numba_is_a_softmax(case):
    pytest.importorskip("numba", reason="numba is not installed")
    q, levels, reads, how = case
    wanted = reference(q, levels, reads, **how)
    assert (chunk_attention.numba(q, levels, reads, **how) - wanted).abs().max() < 2e-5


def test_heads_that_fill_no_vectors_run_in_pytorch():
    pytest.importorskip("numba", reason="numba is not installed")
    q, k, v = torch.randn(1, 4, 9, 20), torch.randn(1, 2, 30, 20), torch.randn(1, 2, 30, 20)
    place = np.arange(21, 30)
    reads = ChunkReads(np.array([[0, 0, 30, 0]]), place * 0, place + 1)
    how = {"scale": 0.2, "softcap": None, "sinks": None}
    wanted = reference(q, [(k, v)], reads, **how)
    assert (chunk_attention(q, [(k, v)], reads, **how) - wanted).abs().max() < 2e-5
