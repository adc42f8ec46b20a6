"""Random shapes and tensors for the checks of the Triton kernels, and how far results may be off.

Under TRITON_INTERPRET=1 everything is on the CPU, and without it on a GPU. Arithmetic in bfloat16
is wrong in the interpreter, so that dtype is for the GPU alone.
"""

from __future__ import annotations

import os

import torch
from hypothesis import settings
from hypothesis import strategies as st

from helpers.dense import close, dense, own_error

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.float16] + ([] if INTERPRETED else [torch.bfloat16])
PAGE = 16
LENGTHS = [0, 1, PAGE - 1, PAGE, PAGE + 1, 40]  # 40: the capacity
# The interpreter takes up to a second for an example; the slow part of the suite asks for all.
ALL = not INTERPRETED or os.environ.get("SPECDEC_ALL_EXAMPLES") == "1"
EXAMPLES = settings(max_examples=200 if not INTERPRETED else 20 if ALL else 6)
FEWER = settings(max_examples=200 if not INTERPRETED else 12 if ALL else 4)


class Drawn:
    """Shapes and normal tensors of one example."""

    def __init__(self, data):
        self.draw = data.draw
        self.generator = torch.Generator().manual_seed(self.draw(st.integers(0, 1 << 30)))
        self.dtype = self.one_of(*DTYPES)
        self.batch = self.one_of(1, 2, 3, 5)
        self.kv_heads, self.group = self.one_of((1, 1), (2, 4), (3, 3))
        self.heads = self.kv_heads * self.group
        self.nodes = self.one_of(1, 3, 4, 9)
        self.dim, self.value_dim = self.one_of((16, 16), (64, 64), (24, 40))
        self.scale, self.softcap = self.dim**-0.5, self.one_of(None, None, 0.7)

    def one_of(self, *values):
        return self.draw(st.sampled_from(values))

    def normal(self, *shape):
        return torch.randn(shape, generator=self.generator).to(DEVICE, self.dtype)

    def level(self, rows, capacity=LENGTHS[-1]):
        """k, v, length of a level; what lies behind a row's length is NaN."""
        k = self.normal(rows, self.kv_heads, capacity, self.dim)
        v = self.normal(rows, self.kv_heads, capacity, self.value_dim)
        length = [self.one_of(*LENGTHS) for _ in range(rows)]
        for row, end in enumerate(length):
            k[row, :, end:] = v[row, :, end:] = torch.nan
        return k, v, torch.tensor(length, dtype=torch.int32, device=DEVICE)

    def row_map(self, rows):
        places = [self.draw(st.integers(0, rows - 1)) for _ in range(self.batch)]
        return torch.tensor(places, dtype=torch.int32, device=DEVICE)

    def compare(self, ours, q, k, v, visible, bias=None):
        o, lse = ours
        k, v = k.nan_to_num(0.0), v.nan_to_num(0.0)
        want_o, want_lse = dense(q, k, v, visible, self.scale, self.softcap, bias)
        close(o, want_o, own_error(q, k, v, visible, self.scale, self.softcap, bias), self.dtype)
        tolerance = 1e-5 if self.dtype == torch.float32 else 0.02
        torch.testing.assert_close(lse.double(), want_lse, rtol=tolerance, atol=tolerance)
        assert o.dtype == lse.dtype == torch.float32


def near(ours, naive, exact, dtype):
    """Of the same infinities, and elsewhere within twice the error of plain PyTorch's `naive`."""
    known = exact.isfinite()
    assert torch.equal(ours.isfinite(), known)
    if known.any():
        error = (naive.double() - exact)[known].abs().max().item()
        size = exact[known].abs().max().item()
        ours_error = (ours.double() - exact)[known].abs().max().item()
        assert ours_error <= 2 * error + 4 * torch.finfo(dtype).eps * max(1.0, size)


def best_of(scores, length, row_map, unit):
    """Max of `scores[B, Hkv, G, N, U]` over queries, where a unit is full."""
    units = torch.arange(1, scores.shape[-1] + 1, device=DEVICE) * unit
    full = units <= length[row_map.long()][:, None, None]
    return scores.amax((2, 3)).masked_fill(~full, -torch.inf)
