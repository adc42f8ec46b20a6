"""A beginning that rows share is read once for all of them: bytes counted at Triton's loads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from triton.runtime.interpreter import InterpreterBuilder

from specdec.kernels import dispatch
from specdec.kernels.attention.prefix_attention import prefix_attention

from helpers.triton_drawn import DEVICE

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="loads are counted by the interpreter")

HEADS, GROUP, DIM, COMMON = 2, 2, 16, 192


@pytest.fixture
def loaded(monkeypatch):
    """Counts elements that are loaded from a buffer: `loaded(buffer)` since it was last asked."""
    monkeypatch.setattr(dispatch, "kind_for", lambda x: "triton")
    seen: list[np.ndarray] = []
    honest = InterpreterBuilder.create_masked_load

    def noted(self, ptrs, mask, *rest):
        seen.append(ptrs.data[np.broadcast_to(mask.data, ptrs.data.shape)].ravel())
        return honest(self, ptrs, mask, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", noted)

    def count(buffer: torch.Tensor) -> int:
        start = buffer.data_ptr()
        every = np.concatenate(seen)
        return int(((every >= start) & (every < start + buffer.nbytes)).sum())

    return count


@pytest.mark.parametrize("rows", [1, 4, 8])
def test_a_shared_level_is_read_once(loaded, rows):
    """By so many rows that each read the same one; apart, each reads a copy of its own."""
    q = torch.randn(rows, HEADS * GROUP, 1, DIM)
    k, v = torch.randn(1, HEADS, COMMON, DIM), torch.randn(1, HEADS, COMMON, DIM)
    length, all_the_same = torch.tensor([COMMON], dtype=torch.int32), torch.zeros(rows).int()
    shared = prefix_attention(q, k, v, length, all_the_same, scale=DIM**-0.5)
    once = loaded(k), loaded(v)
    ks, vs = (x.repeat(rows, 1, 1, 1) for x in (k, v))
    own = torch.arange(rows, dtype=torch.int32)
    apart = prefix_attention(q, ks, vs, length.expand(rows).contiguous(), own, scale=DIM**-0.5)
    each = loaded(ks), loaded(vs)
    assert once == (k.numel(), v.numel())
    assert each == (ks.numel(), vs.numel())
    for a, b in zip(shared, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
