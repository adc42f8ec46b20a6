"""Tiers that cannot be had: what is refused, and what is left on a disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from specdec.errors import InvalidArgument, OutOfMemory
from specdec.offload import disk_folder, memory
from specdec.offload.budget import Budget
from specdec.offload.disk import DiskTier
from specdec.offload.kv_memory import KVMemory
from specdec.offload.tier import HostTier
from specdec.offload.tiered_store import TieredStore

from helpers import decode_on_disk
from helpers.tiered import NEW, PROMPTS, SMALL, engine_of

HELPERS = Path(decode_on_disk.__file__).parents[1]


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


def decoding(folder, most=0):
    return subprocess.Popen(
        [sys.executable, decode_on_disk.__file__, folder, str(most)],
        stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HELPERS)},
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


@pytest.mark.parametrize("allowed", range(4))
def test_a_tier_that_runs_full_half_way_leaves_the_store_as_it_was(allowed):
    """Four buffers are wanted of two layers; whichever of them fails, nothing has moved."""
    near, far = Budget("device"), Budget("host", allowed * 2 * 40 * 3 * 4)
    store = TieredStore(
        1, 40, [HostTier(far)] * 2, near, window=4, block=3, room=16, staging_bytes=64
    )
    torch.manual_seed(0)
    k, v = torch.randn(2, 2, 1, 2, 6, 3)
    for layer in range(2):
        store.stage(layer, [0], k[layer], v[layer], 0)
    store.commit(0, range(6))
    for layer in range(2):
        store.stage(layer, [0], k[layer][:, :, :2], v[layer][:, :, :2], 0)
    with pytest.raises(OutOfMemory, match="host memory"):
        store.commit(0, range(2))
    assert [int(level.length[0]) for level in store.levels] == [0, 6]
    for layer in range(2):
        assert torch.equal(store.levels[1].k[layer][0, :, :6], k[layer][0])
        assert torch.equal(store.levels[1].v[layer][0, :, :6], v[layer][0])
    far.limit = None
    store.commit(0, range(2))
    assert [int(level.length[0]) for level in store.levels] == [3, 5]
    for layer in range(2):
        for name, x in (("k", k[layer][0]), ("v", v[layer][0])):
            cold, hot = (getattr(level, name)[layer][0] for level in store.levels)
            assert torch.equal(cold[:, :3], x[:, :3])
            assert torch.equal(hot[:, :5], torch.cat([x[:, 3:], x[:, :2]], dim=1))


def test_other_ranks_keep_their_stderr():
    """A process that fails says why, whichever it is; only the text is printed once."""
    done = subprocess.run(
        [sys.executable, "-m", "specdec.offload", "x", "--no-such-option"],
        env=os.environ | {"RANK": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode and "no-such-option" in done.stderr and not done.stdout


@pytest.fixture
def mounts(monkeypatch):
    """File systems as a test has them: /memory and below it is none of a disk."""
    import psutil

    def say(**kinds):
        found = [SimpleNamespace(mountpoint="/", fstype="ext4")]
        found += [SimpleNamespace(mountpoint=path, fstype=kind) for path, kind in kinds.items()]
        monkeypatch.setattr(psutil, "disk_partitions", lambda all: found)

    disk_folder._warn.cache_clear()
    return say


def test_memory_by_the_name_of_a_disk_is_told(mounts, tmp_path, caplog):
    """Of a folder that was given; it holds no more than memory has free."""
    mounts(**{str(tmp_path): "tmpfs", str(tmp_path / "disk"): "xfs"})
    assert disk_folder.memory_kind(tmp_path / "a" / "b") == "tmpfs"
    assert disk_folder.memory_kind(tmp_path / "disk" / "b") is None
    with caplog.at_level("WARNING", "specdec"):
        assert disk_folder.disk_folder(tmp_path / "disk") == tmp_path / "disk"
        assert not caplog.records
        tier = DiskTier(tmp_path / "kv")
        for _ in range(2):
            tier.empty((1, 2, 3, 4), torch.zeros(1))
    (record,) = caplog.records
    assert "kv lies on tmpfs, which is memory" in record.message
    assert memory.free_disk(tmp_path) <= memory.free_bytes(torch.device("cpu")) + (1 << 30)


def test_by_default_a_disk_is_looked_for(mounts, monkeypatch, tmp_path, caplog):
    temporary, other = tmp_path / "tmp", tmp_path / "var"
    temporary.mkdir()
    other.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(temporary))
    monkeypatch.setattr(disk_folder, "_OTHERS", (str(tmp_path / "none"), str(other)))
    mounts()
    assert disk_folder.disk_folder(None) == temporary
    mounts(**{str(temporary): "tmpfs"})
    with caplog.at_level("WARNING", "specdec"):
        assert DiskTier().place == str(other)
        assert not caplog.records
        mounts(**{str(tmp_path): "ramfs"})
        assert disk_folder.disk_folder(None) == temporary
    assert "ramfs" in caplog.text


def test_a_disk_too_small_is_told_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    tier = DiskTier(tmp_path)
    with pytest.raises(OutOfMemory, match="no room for"):
        tier.empty((1, 2, 300, 4), torch.zeros(1))
    assert tier.nbytes == 0
