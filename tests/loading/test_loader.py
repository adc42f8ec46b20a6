"""Loading: folders and names, dtypes and places, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from specdec.errors import InvalidArgument, UnsupportedModel, WeightsError
from specdec.loading import loader
from specdec.loading.loader import load

from helpers.tiny_llama import tiny_llama


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
