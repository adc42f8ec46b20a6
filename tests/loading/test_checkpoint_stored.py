"""Safetensors checkpoints in their own precision, and in few bits by choice."""

from __future__ import annotations

import copy
from pathlib import Path

import gguf
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from specdec import Engine
from specdec.errors import InvalidArgument, UnsupportedModel
from specdec.loading.loader import load
from specdec.loading.pending import Pending
from specdec.model.released import is_released, panels_of, released_in

from helpers import models
from helpers.matrix import crossed

pytest.importorskip("numba", reason="numba is not installed")

IDS = [3, 1, 4, 1, 5, 9, 2, 6]
KINDS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def saved(
    folder: Path, name: str, kind: str, is_tied: bool = True, shards: str = "1GB", **sizes: int
) -> Path:
    """A tiny model in a folder, in one precision; sizes: of its configuration."""
    model = models.build(name, dtype=torch.float32, tie_word_embeddings=is_tied, **sizes)
    model.to(KINDS[kind]).tie_weights()
    model.generation_config.bos_token_id = 7
    model.save_pretrained(folder, max_shard_size=shards)
    return folder


@crossed(
    together=1, name=["llama", "qwen3", "gemma3", "phi3", "mixtral"], kind=list(KINDS),
    is_tied=[True, False],
)  # fmt: skip
def test_a_checkpoint_is_read_as_it_is_stored(
    name: str, kind: str, is_tied: bool, tmp_path: Path
) -> None:
    """The numbers of the file and no others, and the model and settings that transformers make."""
    folder = saved(tmp_path, name, kind, is_tied)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    loaded = load(folder, device="cpu")
    ours = loaded.model
    assert "as stored" in loaded.source and ours.dtype == torch.float32
    assert {panels.format for panels in released_in(ours)} == {kind}
    assert ours.generation_config.to_dict() == theirs.generation_config.to_dict()
    assert ours.name_or_path == str(folder)
    assert is_released(ours.get_input_embeddings().weight)
    assert (ours.lm_head.weight is ours.get_input_embeddings().weight) == is_tied
    assert all(is_released(m.weight) for m in ours.modules() if type(m) is nn.Linear)
    assert not any(isinstance(x, Pending) for x in (*ours.parameters(), *ours.buffers()))
    with torch.inference_mode():
        tokens = torch.tensor([IDS])
        assert torch.equal(ours(tokens).logits, theirs(tokens).logits)
    if kind == "float16":  # products by it are tested with the kernels, and take long to compile
        return
    engine = Engine(ours)
    assert engine.packing.activations == "float32"
    for drafter in ("none", "ngram"):
        text = engine.generate(IDS, max_new_tokens=16, drafter=drafter, eos_token_id=[]).token_ids
        want = theirs.generate(tokens, max_new_tokens=16, do_sample=False, eos_token_id=None)
        assert text == want[0, len(IDS) :].tolist()
    state = theirs.state_dict()
    assert all(torch.equal(x, state[key]) for key, x in engine.model.state_dict().items())


def test_matrices_are_never_dense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several files, too: only what is no matrix is read as float32."""
    folder = saved(tmp_path, "llama", "bfloat16", shards="5KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    shapes: list[int] = []
    own = Pending.dense
    monkeypatch.setattr(Pending, "dense", lambda x: shapes.append(x.dim()) or own(x))
    model = load(folder, device="cpu").model
    assert shapes and set(shapes) == {1}
    monkeypatch.undo()
    exact = load(folder, device="cpu", dtype="float32").model
    state = exact.state_dict()
    assert not list(released_in(exact)) and len(list(released_in(model))) == 15
    for key, x in model.state_dict().items():
        dense = panels_of(x).dense() if is_released(x) else x
        assert torch.equal(dense, state[key])


@pytest.mark.parametrize("weights", ["q4", "q8"])
@pytest.mark.parametrize("activations", ["auto", pytest.param("float32", marks=pytest.mark.slow)])
def test_few_bits_by_choice(weights: str, activations: str, tmp_path: Path) -> None:
    """The numbers are those of GGUF's own quantiser, read by its own reader."""
    folder = saved(tmp_path, "llama", "bfloat16", is_tied=False, hidden_size=64, head_dim=16)
    exact = load(folder, device="cpu", dtype="float32").model
    engine = Engine.from_pretrained(folder, weights=weights, activations=activations)
    assert f"packed to {weights[1]} bits (another model" in engine.name
    assert "as stored" not in engine.name
    assert engine.packing.activations == ("float32" if activations == "float32" else "int8")
    twin = copy.deepcopy(engine.model)
    for name, module in exact.named_modules():
        if type(module) not in (nn.Linear, nn.Embedding):
            continue
        layer = {"q4": "Q4_1", "q8": "Q8_0"}[weights] if "_proj" in name else "Q8_0"
        kind = gguf.GGMLQuantizationType[layer]
        data = gguf.quants.quantize(module.weight.numpy(), kind)
        want = torch.from_numpy(gguf.dequantize(data, kind))
        assert torch.equal(twin.get_submodule(name).weight, want), name
    texts = [
        engine.generate(IDS, max_new_tokens=24, drafter=drafter, eos_token_id=[]).token_ids
        for drafter in ("none", "ngram")
    ]
    assert texts[0] == texts[1]


def test_few_bits_where_they_cannot_be(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", "llama", "bfloat16", hidden_size=32)
    with pytest.raises(InvalidArgument, match="weights='q3' is unknown"):
        load(folder, weights="q3")
    with pytest.raises(InvalidArgument, match="weights='q4'.* as they are stored"):
        load(folder, device="cpu", dtype="float32", weights="q4")
    with pytest.raises(InvalidArgument, match="weights='q8'.* loaded already"):
        load(models.build("llama"), weights="q8")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(InvalidArgument, match="weights='q8'.* is a GGUF"):
        load(tmp_path / "a.gguf", weights="q8")
    mixture = saved(tmp_path / "b", "mixtral", "bfloat16", hidden_size=32)
    with pytest.raises(UnsupportedModel, match="weights='q4' packs linear layers.*Mixtral"):
        load(mixture, device="cpu", weights="q4")
    odd = saved(tmp_path / "c", "llama", "float16", hidden_size=32, intermediate_size=40)
    with pytest.raises(UnsupportedModel, match="groups of 32 inputs, and .*down_proj has 40"):
        load(odd, device="cpu", weights="q8")
