"""precision: sums of 16-bit numbers are taken in float32; float64 stays as it is."""

from __future__ import annotations

import torch
from torch import Tensor


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """What is computed in for numbers of a dtype: float32, or float64 if they are."""
    return dtype if dtype == torch.float64 else torch.float32


def wide(x: Tensor) -> Tensor:
    """`x` in that dtype; itself where it has it."""
    return x.to(wide_dtype(x.dtype))
