"""Two processes that share a model's heads, against one that has them all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from specdec import Engine
from specdec.errors import UnsupportedModel
from specdec.ranks import agreed, check_split, world_size

from helpers import letters, models, split_in_two

HELPERS = Path(__file__).parents[1] / "lib"


def launched(arguments, tmp_path, **environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
               "--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0",
               *map(str, arguments)]  # fmt: skip
    return subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HELPERS), **environment},
    )  # fmt: skip


def test_two_processes_give_the_text_of_one(tmp_path):
    model = models.build("llama")
    model.save_pretrained(tmp_path / "model")
    done = launched(
        [HELPERS / "helpers" / "split_in_two.py", tmp_path / "model", tmp_path / "out"], tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"out.{rank}").read_text()) for rank in (0, 1))
    assert first == second and first["kv_heads"] == 1
    alone = Engine(model)
    for (texts, seed), run in zip(first["texts"], split_in_two.RUNS * 2):
        plain = {name: run[name] for name in ("temperature",) if name in run}
        seeded = {"seed": seed} if "temperature" in run else {}
        want = alone.generate(
            split_in_two.PROMPTS, drafter="none", max_new_tokens=16, **plain, **seeded
        )
        assert texts == [g.token_ids for g in want]


@pytest.mark.slow
def test_the_command_prints_once(tmp_path):
    """As `accelerate launch -m specdec.offload` and `torchrun -m specdec.offload` start it."""
    folder = letters.save(tmp_path / "letters")
    done = launched(
        ["-m", "specdec.offload", "abc abc abc", "--model", folder, "-n", "12", "--json"], tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone = subprocess.run(
        [sys.executable, "-m", "specdec.offload", "abc abc abc", "--model", folder, "-n", "12",
         "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert json.loads(done.stdout)["text"] == json.loads(alone.stdout)["text"]


def test_heads_that_cannot_be_divided():
    check_split(models.ARCHITECTURES["llama"](), 2)
    with pytest.raises(UnsupportedModel, match="2 key-value heads cannot be divided among 3"):
        check_split(models.ARCHITECTURES["llama"](), 3)


def test_alone(monkeypatch):
    assert agreed(True, 3) == agreed(False, 3) == 3
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert world_size() == 2
    monkeypatch.setenv("WORLD_SIZE", "x")
    assert world_size() == 1
