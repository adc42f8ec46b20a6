"""The vector registers of this machine, on which the layout of weights in memory depends."""

from __future__ import annotations

import os

import torch

# What Numba compiles for: NUMBA_CPU_FEATURES if it is set, else this machine.
_named = os.environ.get("NUMBA_CPU_FEATURES")
HAS_32_WIDE_REGISTERS: bool = (
    "+avx512f" in _named.split(",")
    if _named
    else torch.backends.cpu.get_cpu_capability() == "AVX512"
)
# Rows times vectors whose accumulators are in registers, beside what is being multiplied.
REGISTER_TILE: tuple[int, int] = (8, 2) if HAS_32_WIDE_REGISTERS else (4, 1)
# Rows that a matrix product takes at once; its kernels are compiled once for each.
TILE_HEIGHTS: tuple[int, ...] = (1, 2, 4, 8)
