"""Whether layers fuse is known before weights are read, so that a file is read once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed")

from specdec import Engine
from specdec.loading import loader
from specdec.loading.gguf import load as gguf_load
from specdec.loading.gguf.architectures import ARCHITECTURES
from specdec.loading.gguf.load import read_gguf
from specdec.loading.gguf.model import ModelBuilder
from specdec.model.foreseen import why_bits_vary

from helpers import models
from helpers.gguf_models import CASES, in_whole_blocks, write_case

FUSED = ["llama", "llama-biases", "qwen2", "qwen3-tied", "gemma", "gemma2", "gemma3", "phi3"]
NOT_FUSED = ["mixtral", "granite", "smollm3", "qwen2moe", "qwen3moe", "olmo2", "starcoder2",
             "phi2", "command-r", "gpt2", "gpt-oss"]  # fmt: skip


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is loaded, once for each time."""
    found: list[str] = []
    load = loader.load
    monkeypatch.setattr(loader, "load", lambda *x, **y: found.append(str(x[0])) or load(*x, **y))
    return found


@pytest.mark.parametrize("name", FUSED + NOT_FUSED)
def test_a_gguf_is_read_once(name: str, tmp_path: Path, loads: list[str]) -> None:
    """In the precision in which a token keeps its bits; what is foreseen of it is what comes."""
    path = tmp_path / "a.gguf"
    write_case(path, in_whole_blocks(name), kind="Q8_0")
    engine = Engine.from_pretrained(path, device="cpu")
    assert len(loads) == 1
    assert engine.packing.activations == ("int8" if name in FUSED else "float32")
    gguf = read_gguf(path)
    builder = ModelBuilder(gguf.file, gguf.blueprint, torch.float32, as_stored=True, rounds=True)
    why = why_bits_vary(builder.model, builder.rounded)
    by_name = Engine.from_pretrained(path, device="cpu", activations="int8")
    assert by_name.target.keeps_bits == (not why), why


def test_every_architecture_is_foreseen() -> None:
    assert {CASES[name]().architecture for name in FUSED + NOT_FUSED} == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ["llama", "granite", "gpt-oss"])
def test_heads_and_matrices_that_do_not_fit_are_foreseen(
    name: str, tmp_path: Path, loads: list[str]
) -> None:
    """Heads of eight fill no vector, and rows of 48 inputs are no blocks: floats in the file."""
    write_case(tmp_path / "a.gguf", name, kind="Q8_0")
    assert Engine.from_pretrained(tmp_path / "a.gguf").packing.activations == "float32"
    assert len(loads) == 1


@pytest.mark.parametrize("name", ["llama", "mistral"])
@pytest.mark.parametrize("head_dim", [16, 8])
def test_a_checkpoint_in_few_bits_is_read_once(
    name: str, head_dim: int, tmp_path: Path, loads: list[str]
) -> None:
    model = models.build(name, dtype=torch.float32, hidden_size=64, head_dim=head_dim)
    model.save_pretrained(tmp_path)
    engine = Engine.from_pretrained(tmp_path, device="cpu", weights="q8")
    assert len(loads) == 1 and engine.target.keeps_bits == (head_dim == 16)
    assert engine.packing.activations == ("int8" if head_dim == 16 else "float32")


def test_what_shows_in_numbers_alone_is_read_again(
    tmp_path: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_load, "why_bits_vary", lambda *_: "")
    write_case(tmp_path / "a.gguf", in_whole_blocks("granite"), kind="Q8_0")
    assert Engine.from_pretrained(tmp_path / "a.gguf").packing.activations == "float32"
    assert len(loads) == 2
