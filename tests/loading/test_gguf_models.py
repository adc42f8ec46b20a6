"""GGUFs of every architecture: the logits of a configuration by hand, and llama.cpp's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from specdec import Engine
from specdec.errors import UnsupportedModel, WeightsError
from specdec.loading.gguf.architectures import ARCHITECTURES
from specdec.loading.loader import load
from specdec.model.released import released_in

from helpers.gguf_models import (
    CASES,
    VOCAB,
    keys_of,
    llama_cpp_logits,
    model_of,
    tensors_of,
    write,
    write_case,
)
from helpers.matrix import crossed

IDS = [(7 * i * i + 3 * i) % VOCAB for i in range(24)]  # longer than every window
LONG = [(5 * i * i + i) % VOCAB for i in range(300)]  # longer than the boundary of longrope


@pytest.mark.parametrize("name", CASES)
def test_a_gguf_has_the_logits_of_its_model(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.gguf"
    model = write_case(path, name)
    case = CASES[name]()
    ours = load(path, device="cpu").model
    assert ours.dtype == torch.float32 and not ours.training
    for ids in (IDS, LONG) if "longrope" in name else (IDS,):
        with torch.inference_mode():
            theirs = model(torch.tensor([ids])).logits[0]
            logits = ours(torch.tensor([ids])).logits[0]
        scale = theirs.abs().max()
        assert (logits - theirs).abs().max() <= 2e-5 * scale
        if case.close is not None:
            pytest.importorskip("llama_cpp")
            gap = np.abs(llama_cpp_logits(path, ids) - logits.numpy()).max()
            assert gap <= case.close * scale, f"llama.cpp differs by {gap / scale:.2g}"


def test_every_architecture_has_a_case() -> None:
    assert {case().architecture for case in CASES.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ["llama-3", "gemma3", "phi3-longrope", "gpt-oss", "mixtral"])
def test_the_engine_says_what_the_model_says(name: str, tmp_path: Path) -> None:
    model = write_case(tmp_path / "a.gguf", name)
    engine = Engine.from_pretrained(tmp_path / "a.gguf", device="cpu")
    for drafter in ("none", "ngram"):
        ours = engine.generate(IDS, max_new_tokens=12, drafter=drafter, eos_token_id=[])
        theirs = model.generate(
            torch.tensor([IDS]), attention_mask=torch.ones(1, len(IDS)), max_new_tokens=12,
            do_sample=False,
        )  # fmt: skip
        assert ours.token_ids == theirs[0, len(IDS) :].tolist()


@crossed(together=1, name=["llama", "qwen3-tied", "phi3", "gemma3"], kind=["Q8_0", "Q4_0", "F16"])
def test_quantised_files_have_the_values_of_their_blocks(
    name: str, kind: str, tmp_path: Path
) -> None:
    """As stored, as float32 and by llama.cpp, whose products round their inputs."""
    write_case(tmp_path / "a.gguf", name, kind=kind)
    exact = load(tmp_path / "a.gguf", dtype="float32", device="cpu")
    assert not list(released_in(exact.model))
    with torch.inference_mode():
        logits = exact.model(torch.tensor([IDS])).logits[0]
    engine = Engine.from_pretrained(tmp_path / "a.gguf", device="cpu")
    for linear, weight in engine.packing.weights.items():
        linear_name = next(n for n, m in engine.model.named_modules() if m is linear)
        assert torch.equal(weight.dense(), exact.model.get_submodule(linear_name).weight)
    engine.packing.restore()
    assert all(
        torch.equal(a, b)
        for a, b in zip(engine.model.parameters(), exact.model.parameters(), strict=True)
    )
    if kind == "F16":
        return
    pytest.importorskip("llama_cpp")
    gap = np.abs(llama_cpp_logits(tmp_path / "a.gguf", IDS) - logits.numpy()).max()
    assert gap <= 0.1 * logits.abs().max()


@pytest.mark.parametrize("name", ["llama", "qwen3-tied", "mixtral"])
def test_weights_are_spread_by_a_device_map(name: str, tmp_path: Path) -> None:
    model = write_case(tmp_path / "a.gguf", name)
    options = {"device_map": "auto", "max_memory": {"cpu": 30_000}, "offload_folder": tmp_path}
    for spread in ({"device_map": "cpu"}, options):
        ours = load(tmp_path / "a.gguf", **spread).model
        with torch.inference_mode():
            logits = ours(torch.tensor([IDS])).logits
            assert torch.allclose(logits, model(torch.tensor([IDS])).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("mixtral", "expert_used_count", 5), ("qwen3moe", "expert_used_count", 5),
        ("qwen2moe", "expert_count", 0), ("gpt-oss", "expert_used_count", 0),
        ("qwen2", "attention.head_count_kv", 0), ("gemma2", "attention.sliding_window", 0),
        ("gpt-oss", "attention.sliding_window", 0), ("gemma3", "rope.scaling.attn_factor", 0.7),
        ("granite", "logit_scale", 0.0), ("command-r", "logit_scale", 0.0),
        ("llama", "rope.freq_base", 0.0), ("llama", "rope.freq_base", float("nan")),
        ("llama", "rope.scaling.factor", -2.0), ("llama", "rope.scaling.factor", float("inf")),
    ],
)  # fmt: skip
def test_sizes_that_no_model_has_are_refused(
    name: str, key: str, value: float, tmp_path: Path
) -> None:
    case = CASES[name]()
    model = model_of(case.config)
    keys = {**keys_of(case), key: value}
    write(tmp_path / "a.gguf", case.architecture, keys, tensors_of(model, case.architecture))
    with pytest.raises((UnsupportedModel, WeightsError), match=f"{case.architecture}.{key} is "):
        load(tmp_path / "a.gguf", device="cpu")


def test_a_period_of_zero_is_a_window_in_every_layer(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    case = CASES["gpt-oss"]()
    tensors = tensors_of(model_of(case.config), case.architecture)
    keys = {**keys_of(case), "attention.sliding_window_pattern": 0}
    write(tmp_path / "a.gguf", case.architecture, keys, tensors)
    model = load(tmp_path / "a.gguf", dtype="float32", device="cpu").model
    assert set(model.config.layer_types) == {"sliding_attention"}
    with torch.inference_mode():
        logits = model(torch.tensor([IDS])).logits[0]
    theirs = llama_cpp_logits(tmp_path / "a.gguf", IDS)
    assert np.abs(theirs - logits.numpy()).max() <= 1e-3 * logits.abs().max()
