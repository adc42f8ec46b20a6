"""How our Numba kernels are compiled, and how many rows they take at once."""

from __future__ import annotations

from typing import Any

import numba
import torch
from llvmlite import binding

SERIAL: dict[str, Any] = {"nogil": True, "error_model": "numpy", "cache": True}
OPTIONS: dict[str, Any] = {**SERIAL, "parallel": True}

# Rows of a register tile: two vectors of accumulators each, beside what is being multiplied.
_TALL = 8 if binding.get_host_cpu_features().get("avx512f", False) else 4


def tile(rows: int) -> tuple[int, ...]:
    """A tuple as long as the register tile is high for `rows` rows: kernels compile for it."""
    return (0,) * (1 if rows == 1 else 4 if rows <= 4 else _TALL)


def num_threads() -> int:
    """How many threads a kernel may use: as many as PyTorch, which follows OMP_NUM_THREADS."""
    count = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    if numba.get_num_threads() != count:
        numba.set_num_threads(count)
    return count
