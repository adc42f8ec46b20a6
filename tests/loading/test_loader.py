"""Loading: folders and names, dtypes and places, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from specdec.errors import InvalidArgument, UnsupportedModel, WeightsError
from specdec.loading import loader
from specdec.loading.loader import load

from helpers.tiny_llama import tiny_llama

pytestmark = pytest.mark.fast


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder in bfloat16, without a tokenizer."""
    path = tmp_path / "tiny"
    tiny_llama().to(torch.bfloat16).save_pretrained(path)
    return path


def test_a_folder_loads_in_the_dtype_of_the_rules(folder: Path) -> None:
    assert load(folder, device="cpu").model.dtype == torch.float32
    assert load(folder, dtype="bfloat16").model.dtype == torch.bfloat16
    assert load(str(folder), dtype=torch.float64).model.dtype == torch.float64


def test_auto_is_the_checkpoints_dtype_off_the_cpu() -> None:
    assert loader.resolve_dtype("auto", torch.device("cuda")) is None
    assert loader.resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert loader.resolve_dtype("torch.float16", torch.device("cpu")) == torch.float16


def test_a_folder_without_tokenizer_is_allowed(folder: Path) -> None:
    loaded = load(folder)
    assert loaded.tokenizer is None
    assert str(folder) in loaded.source
    assert not any(p.requires_grad for p in loaded.model.parameters())


@pytest.mark.parametrize(
    ("argument", "value"),
    [("dtype", "int8"), ("dtype", torch.int8), ("dtype", "halff"), ("device", "gpu"),
     ("device", "cuda:99"), ("revision", "main")],
)  # fmt: skip
def test_bad_arguments_are_named(folder: Path, argument: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=f"{argument}="):
        load(folder, **{argument: value})  # type: ignore[arg-type]


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin.*save_pretrained"):
        load(folder)


def test_a_pickle_named_by_an_index_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "pytorch_model-00001.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="pickled"):
        load(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="model-00001-of-2.safetensors"):
        load(folder)


def test_an_incomplete_checkpoint_is_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="lacks .*up_proj"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "tensor", "match"),
    [
        ("model.layers.0.self_attn.q_proj.bias", torch.ones(1), "holds .*q_proj.bias"),
        ("model.layers.9.input_layernorm.weight", torch.ones(1), "holds .*layers.9"),
        ("model.embed_tokens.weight_scale", torch.ones(1), "holds .*weight_scale"),
        ("model.norm.weight", torch.ones(1, dtype=torch.int8), "model.norm.weight is of type I8"),
        ("model.norm.weight", torch.ones(1) > 0, "model.norm.weight is of type BOOL"),
    ],
)
def test_tensors_that_mean_something_else_are_named(
    folder: Path, name: str, tensor: torch.Tensor, match: str
) -> None:
    file = folder / "model.safetensors"
    save_file({**load_file(file), name: tensor}, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=match):
        load(folder)


def test_tensors_that_no_text_depends_on_are_left_out(folder: Path) -> None:
    file = folder / "model.safetensors"
    more = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.layers.0.attn.bias": torch.ones(1, 1, 8, 8) > 0,
        "vision_tower.blocks.0.weight": torch.ones(4),
    }
    save_file({**load_file(file), **more}, file, metadata={"format": "pt"})
    assert load(folder).tokenizer is None


def test_a_tensor_in_two_shards_is_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors, folder / "a.safetensors", metadata={"format": "pt"})
    twice = {"lm_head.weight": tensors["model.embed_tokens.weight"], "x": torch.ones(1)}
    save_file({**twice, "model.norm.weight": torch.ones(4)}, folder / "b.safetensors")
    file.unlink()
    weight_map = {**dict.fromkeys(tensors, "a.safetensors"), "x": "b.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(WeightsError, match=r"a\.safetensors and b\.safetensors .* both hold"):
        load(folder)
    index.write_text(json.dumps({"weight_map": {**weight_map, "x": 3}}))
    with pytest.raises(WeightsError, match="no weight_map of file names"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("text", ["{", "[1]"])
def test_damaged_settings_are_named(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(WeightsError, match=name):
        load(folder)


def test_damaged_safetensors_are_refused(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="could not be loaded"):
        load(folder)


def test_what_is_no_causal_lm_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    with pytest.raises(UnsupportedModel, match="causal LM"):
        load(folder)


def test_remote_code_is_off_unless_asked_for(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('this must not run')")
    with pytest.raises(WeightsError, match="trust_remote_code=True"):
        load(folder)


def test_bad_names_say_what_was_tried(tmp_path: Path) -> None:
    for name in (tmp_path / "nothing", "./nothing", "a/b/c"):
        with pytest.raises(WeightsError, match="no folder"):
            load(name)
    with pytest.raises(WeightsError, match=r"no file .*nothing\.gguf"):
        load(tmp_path / "nothing.gguf")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="give the folder"):
        load(tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"no config\.json"):
        load(tmp_path)
    with pytest.raises(InvalidArgument, match="model is a int"):
        load(3)  # type: ignore[arg-type]


def test_an_unreachable_hub_id_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="no folder nobody/nothing here.*hub"):
        load("nobody/nothing")


def test_a_loaded_model_is_taken_as_it_is() -> None:
    model = tiny_llama()
    loaded = load(model, dtype="float32", device="cpu")
    assert loaded.model is model
    assert loaded.tokenizer is None
    with pytest.raises(InvalidArgument, match=r"model\.to"):
        load(model, dtype="float64")
    with pytest.raises(InvalidArgument, match="revision"):
        load(model, revision="v1")
