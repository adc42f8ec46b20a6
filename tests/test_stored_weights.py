"""Weights in a GGUF's own precision: the same numbers, fewer bytes, whatever the type."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from stored_gguf import write_gguf
from torch import nn

from specdec import Engine, convert, stored_weights
from specdec.check import first_difference, top2_gap
from specdec.errors import WeightsError
from specdec.kernels.panel_formats import Int8
from specdec.kernels.panel_weight import PanelWeight, pack
from specdec.loader import load
from specdec.packing import Packing


@pytest.fixture
def tiny(tmp_path: Path, cache: Path) -> Path:
    """A mix as quantisers make it: v and down finer than the rest, in one layer's kernels."""
    path = tmp_path / "tiny.gguf"
    finer = {"attn_v.weight": "Q6_K", "ffn_down.weight": "Q5_K", "token_embd.weight": "Q8_0"}
    write_gguf(path, "Q4_K", finer)
    return path


def test_a_gguf_is_read_as_it_is_stored(tiny: Path) -> None:
    """Every linear layer and the tied head, in mixed formats within a layer."""
    exact = load(tiny, dtype="float32", device="cpu")
    assert exact.stored == {}
    weights = {n: m.weight.clone() for n, m in exact.model.named_modules() if type(m) is nn.Linear}
    engine = Engine.from_pretrained(tiny, device="cpu")
    assert "as stored" in engine.name
    packed = {n: engine.packing.weights.get(m) for n, m in engine.model.named_modules()}
    for name, weight in weights.items():
        assert torch.equal(packed[name].dense(), weight), name
    formats = {name.split(".")[-1]: p.format for name, p in packed.items() if p}
    assert formats["q_proj"] == formats["gate_proj"] == "int4affine"
    assert (formats["v_proj"], formats["lm_head"]) == ("int8", "int8")
    assert formats["down_proj"] == "int8affine"
    assert len(engine.packing.fused) == 2
    assert sum(engine.packing.nbytes.values()) < 0.3 * sum(w.nbytes for w in weights.values())
    assert "int4affine" in str(engine.packing)
    single = Engine.from_pretrained(tiny, device="cpu", dtype="float32")
    assert set(single.packing.nbytes) == {"float32"}
    for drafter in ("none", "ngram"):
        texts = [
            e.generate([1, 2, 3, 4], max_new_tokens=24, drafter=drafter).token_ids
            for e in (engine, single)
        ]
        assert texts[0] == texts[1]
    engine.packing.restore()
    state = dict(engine.model.named_modules())
    assert all(torch.equal(state[name].weight, weight) for name, weight in weights.items())


def test_a_type_that_we_do_not_read_stays_float(tmp_path: Path, cache: Path) -> None:
    write_gguf(tmp_path / "a.gguf", "TQ2_0", {"attn_k.weight": "BF16", "ffn_up.weight": "Q5_1"})
    loaded = load(tmp_path / "a.gguf", device="cpu")
    assert {name.split(".")[-1] for name in loaded.stored} == {"up_proj"}
    packing = Packing.of(loaded.model, loaded.stored)
    # three values times a float16 are exact in float16, and bfloat16 is kept
    assert set(packing.nbytes) == {"int8affine", "float16", "bfloat16"}


def test_a_float_gguf_has_nothing_stored(tmp_path: Path, cache: Path) -> None:
    write_gguf(tmp_path / "a.gguf", "F16")
    loaded = load(tmp_path / "a.gguf", device="cpu")
    assert loaded.stored == {}
    assert "as stored" not in loaded.source
    assert not list(cache.rglob(stored_weights.FILE))
    assert pack(loaded.model.lm_head.weight).format == "float16"


def test_the_panels_are_made_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(tiny, device="cpu").stored
    monkeypatch.setattr(stored_weights, "find", None)  # it must not be called again
    again = load(tiny, device="cpu").stored
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name].dense(), again[name].dense()) for name in first)
    assert not load(tiny, dtype="bfloat16", device="cpu").stored


@pytest.mark.parametrize("columns", [1, 2])
def test_a_panel_file_serves_any_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Written and read with either layout, it holds 32 outputs of an input side by side."""
    monkeypatch.setattr(stored_weights, "_COLUMNS", columns)
    values = np.arange(40 * 24, dtype=np.int64).reshape(40, 24)
    padded = np.pad(values, ((0, 24), (0, 0)))
    width = 32 // columns
    laid = padded.reshape(-1, width, 24).swapaxes(1, 2).astype(np.int8).reshape(-1)
    scale = padded[:, :1].reshape(-1, width, 1).swapaxes(1, 2).astype(np.float32).reshape(-1)
    weight = PanelWeight(40, 24, Int8(laid, scale, 24))
    stored_weights.save({"a": weight}, tmp_path)
    codes = load_file(tmp_path / stored_weights.FILE)["a.codes"].reshape(2, 24, 32)
    assert np.array_equal(codes, padded.astype(np.int8).reshape(2, 32, 24).swapaxes(1, 2))
    again = stored_weights.load(tmp_path)["a"].panels
    assert np.array_equal(again.codes, laid) and np.array_equal(again.scale, scale)


def test_older_conversions_are_not_taken(tiny: Path, cache: Path) -> None:
    """A folder of the format without panels lies beside the new one and is not looked at."""
    old = cache / "gguf" / f"{convert.fingerprint(tiny)[:32]}-float32-v1"
    old.mkdir()
    (old / "specdec-manifest.json").write_text(json.dumps({"sizes": {}}))
    assert load(tiny, device="cpu").stored


def test_a_cut_panel_file_is_made_anew(tiny: Path, cache: Path) -> None:
    load(tiny, device="cpu")
    (path,) = cache.rglob(stored_weights.FILE)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert load(tiny, device="cpu").stored
    assert path.read_bytes() == whole
    path.unlink()
    assert load(tiny, device="cpu").stored


@pytest.mark.parametrize("damage", ["header", "index", "array"])
def test_a_damaged_panel_file_is_explained(tiny: Path, cache: Path, damage: str) -> None:
    from safetensors.numpy import save_file

    load(tiny, device="cpu")
    (path,) = cache.rglob(stored_weights.FILE)
    size = path.stat().st_size
    if damage == "header":
        path.write_bytes(b"\xff" * size)
    else:
        arrays = load_file(path)
        entry = {"format": "Int8", "outputs": 1, "inputs": 1, "group": 1}
        index = {"lm_head": {**entry, "format": "Int3"}, "gone": entry}
        if damage == "array":
            del index["lm_head"]
        save_file(arrays, path, metadata={"index": json.dumps(index)})
        manifest = path.parent / "specdec-manifest.json"
        text = manifest.read_text().replace(str(size), str(path.stat().st_size))
        manifest.write_text(text)
    with pytest.raises(WeightsError, match=r"panels\.safetensors is damaged.*delete"):
        load(tiny, device="cpu")
    assert load(tiny, dtype="float32", device="cpu").model.dtype == torch.float32


def test_a_draft_model_is_read_as_it_is_stored(tiny: Path) -> None:
    engine = Engine.from_pretrained(tiny, device="cpu", dtype="float32")
    draft = engine._draft_models.get(tiny, engine.target)
    out = engine.generate([1, 2, 3], max_new_tokens=12, drafter="model", draft_model=draft)
    plain = engine.generate([1, 2, 3], max_new_tokens=12, drafter="none")
    assert out.token_ids == plain.token_ids
    assert out.stats.draft_acceptance_rate > 0.5  # the same numbers
    assert draft.model.lm_head.weight is draft.model.model.embed_tokens.weight


@pytest.mark.weights
def test_the_demo_says_in_its_precision_what_it_says_in_float32() -> None:
    """Greedily, 32 tokens each; a divergence is named with the gap between its top two logits."""
    stored = Engine.from_pretrained("demo", device="cpu")
    assert sum(stored.packing.nbytes.values()) < 98e6
    assert set(stored.packing.nbytes) == {"int4affine", "int8"}
    single = Engine.from_pretrained("demo", device="cpu", dtype="float32")
    for prompt in ("The capital of France is", "def fibonacci(n):", "Once upon a time,"):
        texts = [
            engine.generate(prompt, max_new_tokens=32, drafter="none").token_ids
            for engine in (stored, single)
        ]
        at = first_difference(*texts)
        if at is not None:
            ids = single.tokenizer(prompt)["input_ids"]
            gap = top2_gap(single, [*ids, *texts[1][:at]])
            pytest.fail(f"{prompt!r} differs at token {at}, where the top two are {gap:.2g} apart")
