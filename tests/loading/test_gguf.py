"""GGUF files: read where they lie, whole or not at all, with their shards as one."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from specdec.errors import UnsupportedModel, WeightsError
from specdec.loading.loader import config_of, load

from helpers.gguf_models import CASES, keys_of, model_of, tensors_of, write, write_case
from helpers.tiny_llama import write_gguf

pytestmark = pytest.mark.fast


def logits_of(path: Path) -> torch.Tensor:
    model = load(path, dtype="float32", device="cpu").model
    with torch.inference_mode():
        return model(torch.tensor([[1, 5, 9, 2]])).logits[0]


def llama(path: Path, **changes: object) -> torch.nn.Module:
    """A llama's file with other keys (None leaves one out) or tensors; the model it was made of."""
    case = CASES["llama"]()
    model = model_of(case.config)
    parts = {**keys_of(case), **tensors_of(model, "llama"), **changes}
    keys = {k: v for k, v in parts.items() if v is not None and not isinstance(v, np.ndarray)}
    tensors = {k: v for k, v in parts.items() if isinstance(v, np.ndarray)}
    write(path, "llama", keys, tensors)
    return model


def test_a_gguf_keeps_its_values_exactly(tmp_path: Path, cache: Path) -> None:
    values = write_gguf(tmp_path / "tiny.gguf", tokenizer=True)
    model, tokenizer, source, *_ = load(tmp_path / "tiny.gguf", dtype="float32")
    state = model.state_dict()
    for ours, theirs in [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ]:
        assert torch.equal(state[ours], torch.from_numpy(values[theirs].copy())), ours
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.generation_config.eos_token_id == 2
    assert tokenizer.decode(tokenizer("ab")["input_ids"]) == "ab"
    assert "tiny.gguf" in source
    assert load(tmp_path / "tiny.gguf", dtype="bfloat16").model.dtype == torch.bfloat16
    assert not cache.exists()  # nothing is converted or kept


def test_a_configuration_needs_no_weights(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    assert config_of(str(tmp_path / "tiny.gguf")).num_hidden_layers == 2
    assert config_of("some/model") is None


@pytest.mark.parametrize("shard", [1, 2, 3])
def test_shards_are_one_model_whichever_is_given(tmp_path: Path, shard: int) -> None:
    model = write_case(tmp_path / "a.gguf", "llama", split_max_tensors=8)
    shards = sorted(tmp_path.glob("*.gguf"))
    assert [path.name for path in shards] == [f"a-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    theirs = model(torch.tensor([[1, 5, 9, 2]])).logits[0]
    assert torch.allclose(logits_of(shards[shard - 1]), theirs, atol=1e-4)


@pytest.mark.parametrize("damage", ["missing", "renamed", "swapped", "foreign"])
def test_shards_that_are_not_all_there_are_refused(tmp_path: Path, damage: str) -> None:
    write_case(tmp_path / "a.gguf", "llama", split_max_tensors=8)
    first, second, third = sorted(tmp_path.glob("*.gguf"))
    if damage == "missing":
        second.unlink()
        wanted = r"lacks a-00002-of-00003\.gguf"
    elif damage == "renamed":
        first = first.rename(tmp_path / "b.gguf")
        wanted = "its name does not say which"
    elif damage == "swapped":
        second.rename(tmp_path / "x")
        third.rename(second)
        (tmp_path / "x").rename(third)
        wanted = "says that it is shard 2"
    else:
        write_case(tmp_path / "b.gguf", "llama", split_max_tensors=5)
        (tmp_path / "b-00002-of-00005.gguf").rename(second)
        wanted = "says that it is shard 1 of 5"
    with pytest.raises(WeightsError, match=wanted):
        load(first)


@pytest.mark.parametrize(
    "tensor", ["blk.1.ffn_up.weight", "output_norm.weight", "token_embd.weight"]
)
def test_a_missing_tensor_is_named(tmp_path: Path, tensor: str) -> None:
    llama(tmp_path / "a.gguf", **{tensor: None})
    with pytest.raises(WeightsError, match=f"lacks the tensor {tensor}"):
        load(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    "tensor",
    ["blk.0.attn_q_norm.weight", "blk.2.attn_q.weight", "blk.0.attn_sinks.weight", "rope.weight",
     "blk.1.attn_q.bias", "blk.0.attn_q.scale", "blk.0.ffn_gate_inp.weight"],
)  # fmt: skip
def test_a_tensor_that_is_not_read_is_named(tmp_path: Path, tensor: str) -> None:
    llama(tmp_path / "a.gguf", **{tensor: np.ones(8, np.float32)})
    with pytest.raises(UnsupportedModel, match=f"the tensor {tensor} is not understood"):
        load(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("logit_scale", 2.0), ("attention.clamp_kqv", 4.0), ("rope.scaling.alpha", 8.0),
        ("rope.scaling.yarn_beta_fast", 16.0), ("attention.scale", 0.3), ("expert_shared_count", 1),
        ("attn_logit_softcapping", 30.0), ("nextn_predict_layers", 1), ("residual_scale", 0.5),
        ("attention.sliding_window_pattern", 2), ("rope.dimension_sections", [1, 2, 3]),
        ("a_key_of_next_year", True),
    ],
)  # fmt: skip
def test_a_key_that_is_not_understood_is_named(tmp_path: Path, key: str, value: object) -> None:
    llama(tmp_path / "a.gguf", **{key: value})
    with pytest.raises(UnsupportedModel, match=f"llama.{key}"):
        load(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.sliding_window", 16), ("rope.dimension_count", 4), ("attention.causal", False),
        ("attention.value_length", 4), ("rope.scaling.type", "dynamic"), ("expert_used_count", 2),
        ("attention.head_count_kv", [2, 4]), ("feed_forward_length", [48, 40]),
        ("vocab_size", 60),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_honoured_is_named(tmp_path: Path, key: str, value: object) -> None:
    llama(tmp_path / "a.gguf", **{key: value})
    with pytest.raises(UnsupportedModel, match=f"llama.{key} is {value!r}".replace("[", r"\[")):
        load(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    "key", ["context_length", "embedding_length", "block_count", "feed_forward_length",
            "attention.head_count", "attention.layer_norm_rms_epsilon"],
)  # fmt: skip
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    llama(tmp_path / "a.gguf", **{key: None})
    with pytest.raises(WeightsError, match=f"lacks the key llama.{key}"):
        load(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("embedding_length", 64, r"\[64, 32\]|\[32\]|\[64, 64\]"),
        ("attention.head_count_kv", 4, r"k_proj.weight of 16 rows"),
        ("attention.head_count_kv", 1, r"k_proj.weight of 16 rows"),
        ("feed_forward_length", 40, r"gate_proj.weight \[48, 32\]"),
        ("block_count", "two", "is 'two'"),
        ("rope.freq_base", "high", "is 'high'"),
    ],
)
def test_keys_that_contradict_the_tensors(
    tmp_path: Path, key: str, value: object, wanted: str
) -> None:
    llama(tmp_path / "a.gguf", **{key: value})
    with pytest.raises((WeightsError, UnsupportedModel), match=wanted):
        load(tmp_path / "a.gguf")


def test_harmless_keys_and_values_given_by_layer(tmp_path: Path) -> None:
    changes = {
        "attention.head_count_kv": [2, 2], "feed_forward_length": [48, 48], "expert_count": 0,
        "rope.scaling.finetuned": True, "tensor_data_layout": "Meta AI original pth",
    }  # fmt: skip
    model = llama(tmp_path / "a.gguf", **changes)
    theirs = model(torch.tensor([[1, 5, 9, 2]])).logits[0]
    assert torch.allclose(logits_of(tmp_path / "a.gguf"), theirs, atol=1e-4)


def test_experts_of_old_files_have_a_tensor_each(tmp_path: Path) -> None:
    case = CASES["mixtral"]()
    model = model_of(case.config)
    tensors = {}
    for name, x in tensors_of(model, "llama").items():
        if "_exps." in name:
            tensors |= {name.replace("_exps", f".{i}"): x[i] for i in range(len(x))}
        else:
            tensors[name] = x
    write(tmp_path / "a.gguf", "llama", keys_of(case), tensors)
    theirs = model(torch.tensor([[1, 5, 9, 2]])).logits[0]
    assert torch.allclose(logits_of(tmp_path / "a.gguf"), theirs, atol=1e-4)


@pytest.mark.parametrize("architecture", ["mamba", "t5", "clip", "deepseek2", "gemma4"])
def test_an_architecture_that_is_not_understood_is_named(tmp_path: Path, architecture: str) -> None:
    write(tmp_path / "a.gguf", architecture, {"block_count": 1}, {"x": np.ones(8, np.float32)})
    with pytest.raises(UnsupportedModel, match=f"architecture '{architecture}'.*llama"):
        load(tmp_path / "a.gguf")


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(WeightsError, match="not a GGUF"):
        load(tmp_path / "text.gguf")


def test_a_cut_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tokenizer=True)
    whole = path.read_bytes()
    for size in (4, 20, 30, 200, 2000, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match="is it whole"):
            load(path)


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    """Any byte of the description changed: an error of ours, or the same model."""
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    whole = bytearray(path.read_bytes())
    before = logits_of(path)
    rng = np.random.default_rng(0)
    for at in rng.integers(4, 1500, 60):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            after = load(path, device="cpu")
        except (WeightsError, UnsupportedModel):
            continue
        assert after.model.config.num_hidden_layers == 2 and before.shape[1] == 96


@pytest.mark.parametrize("version", [1, 4, 3 << 24])
def test_other_versions_are_refused(tmp_path: Path, version: int) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    content = bytearray(path.read_bytes())
    content[4:8] = version.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="big-endian|version"):
        load(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("split.count", "2"), ("split.count", [2]), ("general.alignment", [32]),
        ("tokenizer.ggml.tokens", "abc"), ("tokenizer.ggml.tokens", [1, 2]),
        ("tokenizer.ggml.scores", ["a"]), ("tokenizer.ggml.eos_token_id", "2"),
        ("tokenizer.ggml.eot_token_id", [2]), ("tokenizer.ggml.add_bos_token", "false"),
        ("tokenizer.ggml.add_space_prefix", 0), ("tokenizer.chat_template", 3),
    ],
)  # fmt: skip
def test_keys_of_another_kind_are_named(key: str, value: object, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "a.gguf"), "llama")
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_uint32(key, value)  # type: ignore[arg-type]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(WeightsError, match=f"{key} is .*, and not a "):
        load(tmp_path / "a.gguf", device="cpu")
