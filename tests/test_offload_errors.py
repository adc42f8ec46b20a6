"""Tiers that cannot be had: what is refused, and what is left on a disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiered import NEW, PROMPTS, SMALL, engine_of

from specdec.errors import InvalidArgument, OutOfMemory, UnsupportedModel
from specdec.offload.disk import DiskTier
from specdec.offload.kv_memory import KVMemory


@pytest.fixture(scope="module")
def llama():
    return engine_of()


def test_what_does_not_fit_is_refused():
    engine = engine_of()
    engine.target.kv_memory = KVMemory("auto", 10_000)
    with pytest.raises(OutOfMemory, match=r"device memory, and 9.8 KiB may be taken.*max_memory="):
        engine.generate(PROMPTS[0], max_new_tokens=NEW)
    engine.target.kv_memory = KVMemory("device", 10_000)
    with pytest.raises(OutOfMemory, match=r"of 10,000 bytes are taken"):
        engine.generate(PROMPTS[0], max_new_tokens=NEW)
    with pytest.raises(OutOfMemory, match="the weights take"):
        engine_of(max_memory={"cpu": "1KB"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kv_tier": "tape"}, "kv_tier='tape' is unknown: give device, host, disk, auto"),
        ({"kv_tier": ["host", "tape"]}, "kv_tier='tape'"),
        ({"max_memory": {"gpu": "1GiB"}}, "max_memory has a key 'gpu'"),
        ({"max_memory": {"cpu": "lots"}}, r"max_memory\['cpu'\]='lots' is no size"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InvalidArgument, match=message):
        engine_of(**arguments)


def test_a_tier_for_each_layer(llama):
    llama.target.kv_memory = KVMemory(["disk"], sizes=SMALL)
    with pytest.raises(InvalidArgument, match="kv_tier names 1 tiers, and the model has 2 layers"):
        llama.generate(PROMPTS[0], max_new_tokens=4)


def test_a_folder_that_cannot_be_written(tmp_path, llama):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        llama.target.kv_memory = KVMemory("disk", folder=folder, sizes=SMALL)
        with pytest.raises(InvalidArgument, match="offload_folder='.*' cannot be written"):
            llama.generate(PROMPTS[0], max_new_tokens=4)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_is_missing_is_made(tmp_path, llama):
    llama.target.kv_memory = None
    want = llama.generate(PROMPTS[0], max_new_tokens=4).token_ids
    folder = tmp_path / "a" / "b"
    llama.target.kv_memory = KVMemory("disk", folder=folder, sizes=SMALL)
    assert llama.generate(PROMPTS[0], max_new_tokens=4).token_ids == want
    assert folder.is_dir() and not list(folder.iterdir())


def test_the_file_has_no_name(tmp_path):
    """So nothing is left of it, however the process ends."""
    tier = DiskTier(tmp_path)
    buffer = tier.empty((2, 3, 4, 5), torch.empty(0, dtype=torch.float16))
    assert buffer.shape == (2, 3, 4, 5) and list(tmp_path.iterdir()) == []
    buffer[:] = torch.arange(120).view(2, 3, 4, 5)
    out = torch.empty(3, 2, 5, dtype=torch.float16)
    tier.fetch(buffer, 1, 1, 3, out)
    assert torch.equal(out, buffer[1, :, 1:3])


def test_longrope_is_not_tiered():
    """Its prompts are read in one pass, which a small level cannot hold."""
    engine = engine_of()
    engine.target.rope_boundary = 64
    engine.target.kv_memory = KVMemory("disk", sizes=SMALL)
    with pytest.raises(UnsupportedModel, match="longrope.*kv_tier='device'"):
        engine.generate([1, 2, 3] * 30, max_new_tokens=20)


def decoding(folder, most=0):
    return subprocess.Popen(
        [sys.executable, Path(__file__).parent / "decode_on_disk.py", folder, str(most)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path):
    """The system refuses the blocks (here by a limit on file size), and we say so."""
    process = decoding(tmp_path, 100_000)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "no room for" in told and str(tmp_path) in told and "give another folder" in told
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_process_that_was_killed(tmp_path):
    process = decoding(tmp_path)
    assert process.stdout is not None and process.stdout.readline().startswith("[")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL and list(tmp_path.iterdir()) == []
