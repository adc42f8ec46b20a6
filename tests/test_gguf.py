"""GGUF files: their values kept exactly, converted once, and all or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_llama import write_gguf
from transformers import LlamaConfig

from specdec import convert
from specdec.errors import WeightsError
from specdec.loader import load


def test_a_gguf_keeps_its_values_exactly(tmp_path: Path, cache: Path) -> None:
    values = write_gguf(tmp_path / "tiny.gguf", tokenizer=True)
    model, tokenizer, source, _ = load(tmp_path / "tiny.gguf")
    state = model.state_dict()
    for ours, theirs in [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ]:
        assert torch.equal(state[ours], torch.from_numpy(values[theirs].copy())), ours
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.generation_config.eos_token_id == 2
    assert tokenizer.decode(tokenizer("ab")["input_ids"]) == "ab"
    assert "tiny.gguf" in source


def test_a_second_load_reads_the_conversion(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    first = load(tmp_path / "tiny.gguf")
    assert first.tokenizer is None
    monkeypatch.setattr(convert, "_convert", None)  # it must not be called again
    monkeypatch.setattr(convert, "sha256_of", None)  # nor the file hashed
    assert load(tmp_path / "tiny.gguf").model.dtype == torch.float32
    # 16 bits are rounded from the exact conversion that is there
    assert load(tmp_path / "tiny.gguf", dtype="bfloat16").model.dtype == torch.bfloat16
    assert len(list((cache / "gguf").glob("*-v4"))) == 1


def test_a_changed_gguf_is_converted_anew(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    before = convert.fingerprint(path)
    write_gguf(path, tokenizer=True)
    assert convert.fingerprint(path) != before
    assert load(path).tokenizer is not None


def test_sixteen_bits_are_converted_as_such(tmp_path: Path, cache: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    assert load(tmp_path / "tiny.gguf", dtype="bfloat16").model.dtype == torch.bfloat16
    assert [p.name.split("-")[1] for p in (cache / "gguf").glob("*-v4")] == ["bfloat16"]


@pytest.mark.parametrize("error", [RuntimeError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_conversion_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    write_gguf(tmp_path / "tiny.gguf")

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(LlamaConfig, "save_pretrained", fail)  # after the weights are written
        with pytest.raises(type(error)):
            load(tmp_path / "tiny.gguf")
    assert [p for p in (cache / "gguf").iterdir() if p.is_dir()] == []
    assert load(tmp_path / "tiny.gguf").model.dtype == torch.float32


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(WeightsError, match="not a GGUF"):
        load(tmp_path / "text.gguf")


def test_a_cut_gguf_is_refused(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(WeightsError, match="is it whole"):
        load(path)
