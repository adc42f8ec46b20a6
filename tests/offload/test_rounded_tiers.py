"""Rounded activations and keys that lie elsewhere: never together, since text would tell."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("numba", reason="numba is not installed")

from specdec import Engine
from specdec.errors import InvalidArgument, OutOfMemory
from specdec.offload.kv_memory import KVMemory

from helpers.stored_gguf import VOCAB, write_gguf

PROMPT = [i * i % VOCAB for i in range(90)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rounded") / "tiny.gguf"
    write_gguf(path, "Q4_K", {"token_embd.weight": "Q8_0"}, context=512)
    return path


@pytest.mark.parametrize("tier", ["disk", "host", KVMemory(link=1e9)], ids=["disk", "host", "link"])
def test_far_keys_take_float32(file: Path, tier: str | KVMemory) -> None:
    engine = Engine.from_pretrained(file, device="cpu", kv_tier=tier)
    assert engine.packing is not None and engine.packing.activations == "float32"
    with pytest.raises(InvalidArgument, match="kv_tier or link"):
        Engine.from_pretrained(file, device="cpu", kv_tier=tier, activations="int8")


def test_near_keys_round(file: Path) -> None:
    for tier in ("auto", "device"):
        engine = Engine.from_pretrained(file, device="cpu", kv_tier=tier)
        assert engine.packing is not None and engine.packing.activations == "int8"


def test_what_does_not_fit_is_not_rounded(file: Path) -> None:
    engine = Engine.from_pretrained(file, device="cpu")
    engine.target.kv_memory = KVMemory("disk")
    with pytest.raises(OutOfMemory, match="activations='float32'"):
        engine.generate(PROMPT, max_new_tokens=4)
