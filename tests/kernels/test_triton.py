"""The Triton kernels, each in a process of its own: triton reads its mode when kernels are loaded.

Nothing here switches this process to the interpreter, so the rest of the suite runs what it always
runs.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from specdec.kernels import dispatch
from specdec.kernels.attention.prefix_attention import prefix_attention
from specdec.kernels.gpu import tiles

TESTS = Path(__file__).resolve().parent
HELPERS = TESTS.parent / "lib"
KERNELS = Path(dispatch.__file__).parent
CHECKS = sorted(path.name for path in TESTS.glob("interpreted/test_*.py"))
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (Linux only)"
)


def run(*command: str | Path, **environment: str) -> str:
    """Run Python with this command outside the repository, and return its standard output."""
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HELPERS), kept.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", *map(str, command)],
        env={**kept, **environment}, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@needs_triton
@pytest.mark.parametrize("part", range(2))  # to start a process takes as long as a file
def test_every_kernel_under_the_interpreter(part: int) -> None:
    """On a few examples each; all failures are told."""
    files = [TESTS / "interpreted" / name for name in CHECKS[part::2]]
    run("-m", "pytest", "-q", *files, TRITON_INTERPRET="1")


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("checks", CHECKS)
def test_every_kernel_under_the_interpreter_on_many_examples(checks: str) -> None:
    """And whole passes; a seed of the slow part is not theirs: they are drawn as by default."""
    several = {"TRITON_INTERPRET": "1", "SPECDEC_ALL_EXAMPLES": "1"}
    run("-m", "pytest", "-q", "-m", "slow or not slow", TESTS / "interpreted" / checks, **several)


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("checks", CHECKS)
def test_every_kernel_on_the_gpu(checks: str) -> None:
    """In bfloat16, too."""
    run("-m", "pytest", "-q", TESTS / "interpreted" / checks, SPECDEC_TRITON_CHECKS="1")


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="triton's assembler is for Linux")
@pytest.mark.parametrize("capability", [80, 89, 90])
def test_every_variant_compiles_without_spills(capability: int) -> None:
    """To machine code for three generations of GPUs, none of which is needed for that."""
    rows = json.loads(run(HELPERS / "helpers" / "cubins.py", f"--sm={capability}"))["variants"]
    assert {row["capability"] for row in rows} == {capability} and len(rows) > 90
    for row in rows:
        assert row["shared"] <= row["shared_limit"], row
        assert row["spill"] == 0, row


def test_splits_fill_the_processors_and_no_more() -> None:
    def splits(programs: int, keys: int, rows: int) -> int:
        return tiles.split_count(programs, keys, rows, 128, 128, 2, processors=132)

    assert splits(8, 32768, 4) == 33  # two programs for each processor
    assert splits(8, 8192, 64) == 16  # one, for a second would cost more traffic than it saves
    assert splits(8, 255, 4) == splits(8, 0, 4) == 1
    assert splits(8, 1024, 4) == 4  # no part under 256 keys
    assert splits(500, 32768, 4) == 1
    with pytest.raises(ValueError, match="heads of 640 in 16-bit"):
        tiles.tile(16, 640, 640, 2)


def test_the_rule() -> None:
    def tensor(device: str, dtype: torch.dtype) -> SimpleNamespace:
        place = SimpleNamespace(type=device)
        return SimpleNamespace(is_cuda=device == "cuda", device=place, dtype=dtype)

    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.int32, torch.int64):
        assert dispatch.kind_for(tensor("cuda", dtype)) == "triton"
    assert dispatch.kind_for(tensor("cuda", torch.float64)) == "plain"
    assert dispatch.kind_for(tensor("cpu", torch.float32)) == "numba"
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64):
        assert dispatch.kind_for(tensor("cpu", dtype)) == "plain"
    x = torch.zeros(1)
    assert dispatch.first_tensor(([(x, x + 1)], x + 2)) is x
    assert prefix_attention.__name__ == "prefix_attention"
    assert inspect.signature(prefix_attention) == inspect.signature(prefix_attention.plain)


def test_on_the_cpu_no_triton_is_imported() -> None:
    run(
        "-c",
        "import sys, torch\n"
        "from specdec.kernels.attention.merge import merge\n"
        "import specdec.forward.full_view\n"
        "merge([(torch.zeros(1, 2), torch.zeros(1))] * 2)\n"
        "assert not [m for m in sys.modules if m.startswith('specdec.kernels.triton')]",
    )


def signatures(path: Path, dispatched_only: bool) -> dict[str, str]:
    """name -> parameters and result of a file's functions, without importing it."""
    return {
        node.name: f"{ast.unparse(node.args)} -> {node.returns and ast.unparse(node.returns)}"
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef)
        and (not dispatched_only or [ast.unparse(d) for d in node.decorator_list] == ["dispatched"])
    }


def test_every_op_has_a_twin_of_the_same_signature() -> None:
    ops = 0
    for path in KERNELS.rglob("*.py"):
        plain = signatures(path, dispatched_only=True)
        if plain:
            twins = [path.with_stem(f"{path.stem}_{kind}") for kind in ("triton", "numba")]
            twins = [twin for twin in twins if twin.exists()]
            assert twins, path.name
            for twin in twins:
                assert plain.items() <= signatures(twin, dispatched_only=False).items(), twin.name
            ops += len(plain)
    assert ops >= 14
