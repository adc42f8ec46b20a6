"""Weights in a GGUF's own precision: the same numbers, fewer bytes, whatever the type."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from specdec import Engine, convert, stored_weights
from specdec.check import first_difference, top2_gap
from specdec.errors import WeightsError
from specdec.gguf_blocks import TYPES, decode
from specdec.kernels.panel_weight import pack
from specdec.kernels.skinny_linear import skinny_linear
from specdec.loader import load
from specdec.packing import Packing

HIDDEN, WIDE, VOCAB, HEADS, KV_HEADS = 256, 512, 96, 4, 2
FLOATS = ["F32", "F16", "BF16"]
# Bytes of a block that are float16 scales: random bits there would be NaN or huge.
SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
          "Q4_1": (0, 2), "Q5_1": (0, 2), "TQ2_0": (64,)}  # fmt: skip
FORMATS = {
    **dict.fromkeys(["Q4_0", "Q4_1", "Q4_K", "Q2_K", "Q3_K"], "int4affine"),
    **dict.fromkeys(["Q5_1", "Q5_K"], "int8affine"),
    **dict.fromkeys(["Q8_0", "Q5_0", "Q6_K", "IQ4_NL", "IQ4_XS"], "int8"),
}


def blocks(kind: str, rows: int, inputs: int, rng: np.random.Generator) -> np.ndarray:
    """Random blocks of a type: any bits but for the scales, which are small numbers."""
    per_block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    data = rng.integers(0, 256, (rows, inputs // per_block, size), dtype=np.uint8)
    for at in SCALES.get(kind, (0,)):
        scale = rng.normal(size=(*data.shape[:2], 1), scale=1e-3).astype(np.float16)
        data[..., at : at + 2] = scale.view(np.uint8)
    return data.reshape(rows, -1)


def write_gguf(path: Path, kind: str, others: dict[str, str] | None = None, seed: int = 0) -> None:
    """A llama of two layers in one type, `others` by the end of a tensor's name."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(2)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCAB)
    kv = HIDDEN * KV_HEADS // HEADS
    shapes = {"token_embd.weight": (VOCAB, HIDDEN)}
    for i in range(2):
        shapes |= {
            f"blk.{i}.attn_q.weight": (HIDDEN, HIDDEN),
            f"blk.{i}.attn_k.weight": (kv, HIDDEN),
            f"blk.{i}.attn_v.weight": (kv, HIDDEN),
            f"blk.{i}.attn_output.weight": (HIDDEN, HIDDEN),
            f"blk.{i}.ffn_gate.weight": (WIDE, HIDDEN),
            f"blk.{i}.ffn_up.weight": (WIDE, HIDDEN),
            f"blk.{i}.ffn_down.weight": (HIDDEN, WIDE),
        }
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{norm}.weight", np.ones(HIDDEN, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for name, shape in shapes.items():
        chosen = next((k for end, k in (others or {}).items() if name.endswith(end)), kind)
        raw = gguf.GGMLQuantizationType[chosen]
        if chosen in FLOATS:
            values = rng.normal(size=shape, scale=0.1).astype(np.float32)
            writer.add_tensor(name, gguf.quants.quantize(values, raw), raw_dtype=raw)
        else:
            writer.add_tensor(name, blocks(chosen, *shape, rng), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setenv("SPECDEC_CACHE", str(path))
    return path


@pytest.fixture
def tiny(tmp_path: Path, cache: Path) -> Path:
    """A mix as quantisers make it: v and down finer than the rest, in one layer's kernels."""
    path = tmp_path / "tiny.gguf"
    finer = {"attn_v.weight": "Q6_K", "ffn_down.weight": "Q5_K", "token_embd.weight": "Q8_0"}
    write_gguf(path, "Q4_K", finer)
    return path


@pytest.mark.parametrize("kind", TYPES)
def test_blocks_say_what_the_reference_says(kind: str) -> None:
    data = blocks(kind, 5, 768, np.random.default_rng(0))
    codes = decode(kind, data)
    want = gguf.dequantize(data, gguf.GGMLQuantizationType[kind])
    assert np.array_equal(codes.values(), want)
    assert codes.codes.min() >= (0 if codes.bits == 4 else -128)
    assert codes.codes.max() <= (15 if codes.bits == 4 else 127)


def test_a_large_scale_of_q4_0_keeps_its_minimum() -> None:
    """-8 times a large float16 is none any more."""
    data = blocks("Q4_0", 1, 64, np.random.default_rng(0))
    data[0, :2] = np.array([9000.0], np.float16).view(np.uint8)
    want = gguf.dequantize(data, gguf.GGMLQuantizationType.Q4_0)
    assert np.array_equal(decode("Q4_0", data).values(), want)


class Tensor:
    """What `find` needs of a GGUF reader's tensor."""

    def __init__(self, kind: str, data: np.ndarray) -> None:
        self.tensor_type, self.data = gguf.GGMLQuantizationType[kind], data
        self.shape = gguf.dequantize(data, self.tensor_type).shape[::-1]

    def rows(self) -> torch.Tensor:
        return torch.from_numpy(gguf.dequantize(self.data, self.tensor_type))


def linear(weight: torch.Tensor) -> nn.Linear:
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    module.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    return module


@pytest.mark.parametrize("kind", TYPES)
def test_a_weight_is_found_by_its_rows(kind: str) -> None:
    """Rows in another order, and from two tensors: the same bits, and products that agree."""
    rng = np.random.default_rng(1)
    tensors = [Tensor(kind, blocks(kind, rows, 256, rng)) for rows in (40, 24)]
    tensors[0].data[3] = tensors[1].data[5]  # a row that is there twice
    every = torch.cat([tensor.rows() for tensor in tensors])
    weight = every[torch.randperm(64, generator=torch.Generator().manual_seed(0))[:50]]
    packed = stored_weights.find(nn.ModuleDict({"a": linear(weight)}), tensors)["a"]
    assert packed.format == FORMATS[kind]
    assert packed.nbytes * 50 < 0.4 * 64 * weight.nbytes  # 64: outputs up to whole panels
    assert torch.equal(packed.dense(), weight)
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(0))
    exact = x.double() @ weight.double().T
    ours = (skinny_linear(x, packed) - exact).abs().max()
    theirs = (x @ weight.T - exact).abs().max()
    assert ours <= 4 * theirs + 1e-7 * exact.abs().max()


def test_what_is_not_all_there_is_left_out() -> None:
    rng = np.random.default_rng(2)
    q4, q8, ternary = (Tensor(k, blocks(k, 32, 256, rng)) for k in ("Q4_1", "Q8_0", "TQ2_0"))
    changed = q4.rows()
    changed[7, 9] += 1e-3
    layers = {
        "whole": linear(q4.rows()),
        "changed": linear(changed),
        "mixed": linear(torch.cat([q4.rows(), q8.rows()])),
        "unknown": linear(ternary.rows()),
        "narrow": linear(q4.rows()[:, :128]),
    }
    found = stored_weights.find(nn.ModuleDict(layers), [q4, q8, ternary])
    assert set(found) == {"whole"}


def test_a_lying_hash_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    there, asked = (Tensor("Q8_0", blocks("Q8_0", 4, 64, rng)) for _ in range(2))
    monkeypatch.setattr(stored_weights, "_hashes", lambda rows: [0] * len(rows))
    assert stored_weights.find(nn.ModuleDict({"a": linear(asked.rows())}), [there]) == {}


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
    draft = engine._draft_models.get(tiny)
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
