"""Products of stored blocks by AVX2's instructions, in a process that is told it has no others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed")

AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+sse4.2,+avx,+avx2,+fma,+f16c,+bmi2"}
SCRIPT = """
import numpy as np
import torch
from helpers.stored_gguf import blocks
from specdec.kernels.linear.packed_weight import pack_stored
from specdec.kernels.linear.skinny_linear import skinny_linear
from specdec.kernels.linear.stored.dots import KIND

print(KIND)
for name in ("Q4_K", "Q6_K", "Q8_0"):  # sums of several steps, of two scales a group, and of signs
    weight = pack_stored(name, blocks(name, 64, 512, np.random.default_rng(0)))
    x = torch.randn(4, 512, generator=torch.Generator().manual_seed(1))
    wanted = skinny_linear.plain(x, weight)
    gap = (skinny_linear.numba(x, weight) - wanted).abs().max() / wanted.abs().max()
    print(name, float(gap))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    "avx2" not in torch.backends.cpu.get_cpu_capability().lower()
    and "avx512" not in torch.backends.cpu.get_cpu_capability().lower(),
    reason="this machine has no AVX2",
)
def test_products_by_avx2() -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1] / "lib"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | AVX2 | {"PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    kind, *lines = done.stdout.splitlines()
    assert kind == "avx2" and len(lines) == 3
    for line in lines:
        name, gap = line.split()
        assert float(gap) < 1e-5, name
