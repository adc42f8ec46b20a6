"""What the tests of Numba kernels share: numbers drawn by hypothesis, and how results are judged.

A kernel is judged against float64 by the error of plain PyTorch in float32. It is compiled once for
each combination of types, so the tests name the combinations that they use; what hypothesis varies
(sizes, rows, masks) compiles nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

UNIT = 4 * torch.finfo(torch.float32).eps
EXAMPLES = settings(max_examples=25)


def judge(ours, plain, exact, size=None):
    """At most twice the error of plain PyTorch, plus a rounding unit of the largest number."""
    assert ours.dtype == torch.float32 and ours.shape == exact.shape
    if not exact.numel():
        return
    allowed = 2 * (plain.double() - exact).abs().max().item()
    allowed += UNIT * max(1.0, exact.abs().max().item() if size is None else size)
    error = (ours.double() - exact).abs().max().item()
    assert error <= allowed, f"{error:.2g} > {allowed:.2g}"


class Drawn:
    def __init__(self, data):
        self.draw = data.draw
        seed = self.draw(st.integers(0, 1 << 30))
        self.generator = torch.Generator().manual_seed(seed)
        self.numpy = np.random.default_rng(seed)

    def one_of(self, *values):
        return self.draw(st.sampled_from(values))

    def normal(self, *shape):
        return torch.randn(shape, generator=self.generator)
