"""What happens where Numba is missing, broken, limited to a thread, or cannot write its cache, and
on a machine with other registers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from specdec.kernels.cpu.jit import cpu_quota
from specdec.kernels.cpu.registers import HAS_32_WIDE_REGISTERS

HELPERS = Path(__file__).resolve().parents[1] / "lib"


def run(program: str, **environment: str) -> str:
    """Run a program outside the repository with warnings as errors; its stdout and stderr."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "OMP_"))}
    kept["NUMBA_CACHE_DIR"] = os.environ.get("NUMBA_CACHE_DIR", "")
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HELPERS), kept.get("PYTHONPATH"))))
    safe = "-P" if sys.version_info >= (3, 11) else "-s"
    done = subprocess.run(
        [sys.executable, safe, "-W", "error::UserWarning", "-c", program], cwd=HELPERS.parents[2],
        env={**kept, **environment}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


WITHOUT = """
import importlib.util, logging, sys
logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
{block}
import torch
from helpers import models
from specdec import Engine
model = models.build("llama", dtype=torch.float32, head_dim=16)
want = model.generate(torch.tensor([[1, 2, 3]]), attention_mask=torch.ones(1, 3), max_new_tokens=9)
engine = Engine(model)
assert not engine.packing.weights and not engine.packing.fused
got = engine.generate([1, 2, 3], drafter="ngram", max_new_tokens=9)
assert got.token_ids == want[0, 3:].tolist(), (got.token_ids, want)
assert not any(name == "llvmlite" or name.endswith("_numba") for name in sys.modules)
"""

MISSING = """
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numba", "llvmlite"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "numba" else find(name, *rest)
sys.meta_path.insert(0, Blocked())
"""

BROKEN = """
import importlib.machinery
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name == "numba":
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        raise ImportError("Numba needs NumPy 0.1 or less")
sys.meta_path.insert(0, Refused())
"""


@pytest.mark.parametrize(
    ("block", "message"),
    [
        pytest.param(MISSING, "numba is not installed", id="missing"),
        pytest.param(
            BROKEN, "cannot be imported (Numba needs NumPy 0.1", marks=pytest.mark.slow, id="broken"
        ),
    ],
)
def test_without_numba(block, message):
    """Everything works, and one warning says what is lost."""
    out = run(WITHOUT.format(block=block))
    assert out.count("WARNING") == 1 and message in out


KERNEL = """
import logging, threading
logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
import torch
from specdec.kernels.linear.packed_weight import pack
from specdec.kernels.linear.skinny_linear import skinny_linear
x, weight = torch.ones(1, 64), pack(torch.ones(40, 64) / 3)
y = skinny_linear(x, weight)
assert torch.allclose(y, torch.full((1, 40), 64 / 3))
assert torch.equal(skinny_linear(x, weight), y)
import numba
"""


@pytest.fixture(scope="module", autouse=True)
def _numba():
    pytest.importorskip("numba", reason="numba is not installed")


def test_threads_are_as_many_as_pytorch_may_use():
    ask = KERNEL + "print(numba.get_num_threads(), torch.get_num_threads())"
    assert run(ask, OMP_NUM_THREADS="1").split() == ["1", "1"]
    limited = KERNEL.replace("import torch\n", "import torch\ntorch.set_num_threads(1)\n", 1)
    assert run(limited + "print(numba.get_num_threads())").split() == ["1"]


CONCURRENT = (
    KERNEL
    + """
def work():
    for _ in range(300):
        assert torch.equal(skinny_linear(x, weight), y)
workers = [threading.Thread(target=work) for _ in range(4)]
for worker in workers: worker.start()
for worker in workers: worker.join()
print("layer", numba.threading_layer())
"""
)


def test_threads_may_call_at_the_same_time():
    """Numba's own pool ends the process when two threads enter it: they take turns."""
    out = run(CONCURRENT, NUMBA_THREADING_LAYER="workqueue", NUMBA_NUM_THREADS="2")
    assert "layer workqueue" in out and out.count("WARNING") == 1 and "libgomp" in out


FORKED = (
    KERNEL
    + """
import os
child = os.fork()
if not child:
    try:
        skinny_linear(x, weight)
    except RuntimeError as error:
        print("refused:", error, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert torch.equal(skinny_linear(x, weight), y)
"""
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told_what_to_do():
    """OpenMP's threads do not come along; Numba would end the child without a Python error."""
    assert "refused: this process was forked" in run(FORKED)


READ_ONLY = """
import sys, tempfile
from pathlib import Path
make = tempfile.TemporaryFile
def refuse(*args, dir=None, **kwargs):
    if any(word in str(dir) for word in {words!r}):
        raise PermissionError(dir)
    return make(*args, dir=dir, **kwargs)
tempfile.TemporaryFile = refuse
"""


@pytest.mark.slow
def test_a_package_that_cannot_be_written(tmp_path):
    """Kernels are kept in the user's cache, and found again."""
    program = READ_ONLY.format(words=["__pycache__"]) + KERNEL
    program += "print(sum(skinny.stats.cache_hits.values()))"
    program = program.replace("x, weight =", NAMED + "x, weight =", 1)
    place = {"NUMBA_CACHE_DIR": "", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    assert run(program, **place).split() == ["0"]
    assert run(program, **place).split() == ["1"]


NAMED = "from specdec.kernels.linear.skinny_linear_numba import matrix_product as skinny\n"


def test_a_cache_that_cannot_be_written():
    """Kernels are then compiled in each process, and one line says so."""
    out = run(READ_ONLY.format(words=["specdec-"]) + KERNEL + "print('done')")
    assert "done" in out and out.count("WARNING") == 1 and "NUMBA_CACHE_DIR" in out


def test_the_cache_knows_every_source(monkeypatch):
    """Numba looks at the file of a kernel alone, not at those whose functions it inlines."""
    from specdec.kernels.cpu import jit

    read, place = Path.read_bytes, jit._cache_folder.__wrapped__
    here = place()
    monkeypatch.setattr(
        Path, "read_bytes", lambda p: read(p) + b"#" if p.name == "simd.py" else read(p)
    )
    assert here is not None and Path(here).parent == Path(place()).parent and here != place()


def test_a_containers_share_of_cpus(tmp_path: Path) -> None:
    file = tmp_path / "cpu.max"
    assert cpu_quota(file) > 1000
    for i, (text, count) in enumerate(
        [("max 100000", 1 << 20), ("150000 100000", 2), ("9 100", 1)]
    ):
        (tmp_path / str(i)).write_text(text)
        assert cpu_quota(tmp_path / str(i)) == count


OTHERS = """
from specdec.kernels.cpu import registers
registers.HAS_32_WIDE_REGISTERS, registers.REGISTER_TILE = {wide}, {tile}
import numpy as np
import torch
from specdec.kernels.attention.level_attention import Reads, level_attention
from specdec.kernels.attention.level_attention_tiles import BLOCK
from specdec.kernels.linear.packed_formats import COLUMN
from specdec.kernels.linear.packed_weight import pack, quantise
from specdec.kernels.linear.skinny_linear import skinny_linear
assert (COLUMN, BLOCK) == {sizes}
torch.manual_seed(0)
dense = torch.randn(70, 480)
for weight in (pack(dense), quantise(dense, 8), quantise(dense, 4)):
    for rows in (1, 2, 4, 8, 129):
        x = torch.randn(rows, 480)
        want = (x.double() @ weight.dense().double().T).float()
        torch.testing.assert_close(skinny_linear.numba(x, weight), want, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(skinny_linear.plain(x, weight), want, rtol=1e-4, atol=1e-3)
table, member = np.array([[0, 0, 0, 137, 8, 0, 1, 0]]), np.zeros(1, np.int64)
for dim, nodes in ((32, 4), (64, 1), (64, 4), (64, 8), (80, 8)):
    q = torch.randn(1, 6, nodes, dim)
    levels = [(torch.randn(1, 2, 150, dim), torch.randn(1, 2, 150, dim))]
    anc = (2 ** np.arange(1, nodes + 1, dtype=np.uint64) - 1).reshape(1, nodes, 1)
    reads = Reads(table, member, anc)
    ours, plain = (f(q, levels, reads, scale=0.3) for f in
                   (level_attention.numba, level_attention.plain))
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.slow
def test_kernels_as_other_registers_have_them():
    """Weights and attention in the tiles that this machine does not use: LLVM splits vectors that
    are too wide."""
    wide = not HAS_32_WIDE_REGISTERS
    tile, sizes = ((8, 2), (32, 64)) if wide else ((4, 1), (16, 16))
    run(OTHERS.format(wide=wide, tile=tile, sizes=sizes))
