"""A step of a drafting block in one call: what its parts give one by one in PyTorch."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.numba_drawn import EXAMPLES, Drawn

pytest.importorskip("numba", reason="numba is not installed")

from specdec.kernels.attention.level_attention import NO_BIASES, Reads
from specdec.kernels.linear import draft_block_numba
from specdec.kernels.linear.decoder_block import AttentionInputs, LayerOutput
from specdec.kernels.linear.decoder_run import Staging
from specdec.kernels.linear.draft_block import Attended, DraftBlock, draft_block

from helpers.numba_layers import linear, norm

FORMAT = "int8/float16"  # of all matrices, as drafters have them
CAPACITY = 40


def block(d, hidden, heads, kv_heads, dim, state, lags):
    def matrix(outputs, inputs, bias=False):
        return linear(d, outputs, inputs, FORMAT, bias)

    token = matrix(heads * dim, hidden, True) if d.one_of(False, True) else None
    group = d.one_of(16, state)  # states are alike
    with patch.object(d, "one_of", lambda *_: group):
        states = tuple(matrix(hidden, state) for _ in range(lags))
    return DraftBlock(
        matrix(hidden, hidden, True), matrix(hidden, hidden), states,
        AttentionInputs(
            norm(d, hidden), matrix(heads * dim, hidden, True),
            matrix(kv_heads * dim, hidden, True), matrix(kv_heads * dim, hidden, True), dim,
        ),
        matrix(hidden, heads * dim), norm(d, hidden), matrix(heads * dim, hidden), token,
        norm(d, dim, d.one_of(False, True)),
        LayerOutput(
            matrix(hidden, heads * dim), norm(d, hidden), matrix(80, hidden), matrix(80, hidden),
            matrix(hidden, 80), "silu",
        ),
        matrix(d.one_of(32, 70), hidden),
    )  # fmt: skip


def level(d, rows, kv_heads, dim, lengths):
    """Keys and values, NaN where nothing may be read."""
    pair = tuple(d.normal(rows, kv_heads, CAPACITY, dim) for _ in range(2))
    for x in pair:
        for row, end in enumerate(lengths):
            x[row, :, end:] = torch.nan
    return pair


@pytest.mark.parametrize("height", [1, 4])
def test_scores_and_staged_keys(height):
    @EXAMPLES
    @given(data=st.data())
    def check(data):
        d = Drawn(data)
        batch, nodes = d.one_of((1, 1), (1, 3), (2, 1), (3, 5))
        kv_heads, group = d.one_of((1, 1), (2, 3))
        hidden, dim, state, at = d.one_of(16, 48), d.one_of(16, 32), 32, d.one_of(0, 2)
        made = block(d, hidden, kv_heads * group, kv_heads, dim, state, 3)
        rows = torch.randperm(batch + 1, generator=d.generator)[:batch].int()
        window = [d.one_of(0, 7, 30) for _ in range(batch + 1)]
        shared, entries = d.one_of(0, 20), d.one_of(0, 5)
        near = [
            level(d, batch + 1, kv_heads, dim, window),
            level(d, batch + 1, kv_heads, dim, [at] * (batch + 1)),
        ]
        table, bounds = [], []
        for b, row in enumerate(rows.tolist()):
            table += [(0, row, 0, window[row], 0, b, 1, 0), (1, row, 0, 0, at + nodes, b, 1, 0)]
            bounds += [[d.one_of(0, 3)] * nodes, [0] * nodes]
        members = np.arange(batch)
        anc = np.zeros((batch, nodes, 1), np.uint64)
        for n in range(nodes):
            anc[:, n] = (1 << (at + n + 1)) - 1
        near_reads = Reads(np.array(table), members, anc, np.array(bounds))
        far_table = [(0, 0, 0, shared, 0, 0, batch, 0)] if shared else []
        far_table += [(1, 0, 0, entries, 0, batch - 1, 1, -1)] if entries else []
        biases = d.normal(1, kv_heads, entries).numpy() if entries else NO_BIASES
        far_reads = Reads(np.array(far_table, np.int64).reshape(-1, 8), members, biases=biases)
        far = Attended([level(d, 1, kv_heads, dim, [n]) for n in (shared, entries)], far_reads)
        x, before = d.normal(batch, nodes, hidden), d.normal(batch, nodes, hidden)
        own, cross = ((d.normal(batch, nodes, dim), d.normal(batch, nodes, dim)) for _ in range(2))
        lags = [d.one_of(0, 1, 2) for _ in range(batch)]
        staging = Staging(torch.zeros(batch + 1, dtype=torch.int32), rows, at)
        given_ = x, before, d.normal(batch, state), made, lags, own, cross
        kept = [(k.clone(), v.clone()) for k, v in near]
        with patch.object(draft_block_numba, "tile_height", lambda n: height):
            ours = draft_block.numba(*given_, Attended(near, near_reads), far, staging)
        want = draft_block.plain(*given_, Attended(kept, near_reads), far, staging)
        torch.testing.assert_close(ours, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))
        for pair, other in zip(near, kept):
            torch.testing.assert_close(pair, other, rtol=1e-4, atol=1e-4, equal_nan=True)

    check()
