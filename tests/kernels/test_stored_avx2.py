"""Products of stored blocks by AVX2's instructions, in a process that is told it has no others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed")

from specdec.kernels.linear.skinny_linear import skinny_linear

from helpers.stored_products import HEIGHTS, NAMES, case

AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+sse4.2,+avx,+avx2,+fma,+f16c,+bmi2"}
SCRIPT = """
import sys
import torch
from helpers.stored_products import HEIGHTS, NAMES, case
from specdec.kernels.linear.skinny_linear import skinny_linear
from specdec.kernels.linear.stored.dots import KIND

print(KIND)
ways = [(name, height) for name in NAMES for height in HEIGHTS]
made = {way: skinny_linear.numba(*case(*way)) for way in ways}
torch.save(made, sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(
    "avx2" not in torch.backends.cpu.get_cpu_capability().lower()
    and "avx512" not in torch.backends.cpu.get_cpu_capability().lower(),
    reason="this machine has no AVX2",
)
def test_products_by_avx2(tmp_path: Path) -> None:
    """Right, and equal in every bit to those of this machine's own instructions: all ways of
    unpacking, in tiles of all outputs and of half of them."""
    path = os.pathsep.join([str(Path(__file__).parents[1] / "lib"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "made")],
        env=os.environ | AVX2 | {"PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["avx2"]
    made = torch.load(tmp_path / "made")
    assert list(made) == [(name, height) for name in NAMES for height in HEIGHTS]
    for (name, height), found in made.items():
        x, weight = case(name, height)
        wanted = skinny_linear.plain(x, weight)
        assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max(), (name, height)
        assert torch.equal(found, skinny_linear.numba(x, weight)), (name, height)
