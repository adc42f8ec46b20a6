"""A prompt that was read once: the same text, and nothing else than this model's."""

from __future__ import annotations

import hostile
import models
import pytest
import torch
from safetensors.torch import load_file

from specdec import Engine
from specdec.errors import InvalidArgument, WeightsError
from specdec.offload import saved_prompt
from specdec.offload.kv_memory import KVMemory
from specdec.offload.saved_prompt import SavedPrompt
from specdec.offload.split import Sizes

BOOK = [(7 * i * i + i) % models.VOCAB for i in range(90)]
QUESTIONS = [BOOK + [3, 4, 5], BOOK + [9]]
SMALL = Sizes(window=4, block=3, room=1024, staging_bytes=700)


@pytest.fixture(scope="module")
def engine():
    return Engine(models.build("llama"), hostile.tokenizer(models.VOCAB))


@pytest.fixture
def folder(engine, tmp_path):
    engine.target.kv_memory = KVMemory()
    engine.save_prompt(BOOK, tmp_path / "book")
    return tmp_path / "book"


@pytest.mark.parametrize("tier", ["device", "disk"])
@pytest.mark.parametrize("drafter", ["none", "ngram", "snapkv"])
@pytest.mark.parametrize("samples", [1, 2])
def test_same_text(engine, folder, tier, drafter, samples):
    kwargs = {"max_new_tokens": 20, "temperature": 0.8, "seed": 1, "num_return_sequences": samples}
    want = engine.generate(QUESTIONS, drafter="none", **kwargs)
    engine.target.kv_memory = KVMemory(tier, sizes=SMALL)
    options = {"budget": 32, "sink": 4, "recent": 4} if drafter == "snapkv" else {}
    out = engine.generate(QUESTIONS, drafter=drafter, saved_prompt=folder, **options, **kwargs)
    assert [g.token_ids for g in out] == [g.token_ids for g in want]


def test_it_is_not_read_again(engine, folder, monkeypatch):
    """Only what the folder does not hold goes through the model."""
    read = []
    prefill = type(engine.target).prefill
    monkeypatch.setattr(
        type(engine.target), "prefill",
        lambda self, store, view, row, tokens, recorder=None: (
            read.extend(tokens), prefill(self, store, view, row, tokens, recorder)
        ),
    )  # fmt: skip
    engine.generate(QUESTIONS[0], saved_prompt=folder, drafter="none", max_new_tokens=2)
    assert read == QUESTIONS[0][len(BOOK) : -1]


def test_saved_from_tiers(engine, tmp_path):
    """What is saved does not depend on where it lay."""
    for name, memory in (("a", KVMemory("device")), ("b", KVMemory("disk", sizes=SMALL))):
        engine.target.kv_memory = memory
        engine.save_prompt(BOOK, tmp_path / name)
    for layer in range(engine.target.num_layers):
        file = f"layer-{layer:05d}.safetensors"
        one, other = (load_file(tmp_path / name / file) for name in ("a", "b"))
        for part in ("k", "v"):
            assert one[part].shape == (2, len(BOOK), 8)
            assert torch.allclose(one[part], other[part], atol=1e-12)


def test_a_seam_may_be_tokenized_otherwise(engine, folder):
    prompt = [*BOOK[:-2], 1, 1, 1]
    want = engine.generate(prompt, drafter="none", max_new_tokens=8)
    out = engine.generate(prompt, drafter="none", max_new_tokens=8, saved_prompt=folder)
    assert out.token_ids == want.token_ids


def test_another_prompt_is_refused(engine, folder):
    other = [*BOOK[:10], 39, *BOOK[11:]]
    with pytest.raises(InvalidArgument, match="token 10 of 90 differs"):
        engine.generate(other, saved_prompt=folder, max_new_tokens=2)


def test_another_model_is_refused(engine, folder):
    for model, message in (
        (models.build("qwen3"), "architecture is 'LlamaForCausalLM' there"),
        (models.build("llama", dtype=torch.float32), "dtype is 'float64' there and 'float32' here"),
        (models.build("llama", seed=1), "other weights of this architecture: logits differ by"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            Engine(model).generate(BOOK + [1], saved_prompt=folder, max_new_tokens=2)


def test_what_is_no_saved_prompt_is_left_alone(engine, tmp_path):
    with pytest.raises(InvalidArgument, match="holds no prompt.json"):
        engine.generate(BOOK, saved_prompt=tmp_path, max_new_tokens=2)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidArgument, match="exists and holds no saved prompt"):
        engine.save_prompt(BOOK, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_damaged_files_say_so(engine, folder):
    part = folder / "layer-00001.safetensors"
    part.write_bytes(part.read_bytes()[:40])
    with pytest.raises(WeightsError, match=r"layer-00001.safetensors cannot be read"):
        engine.generate(BOOK + [1], saved_prompt=folder, max_new_tokens=2)
    (folder / "prompt.json").write_text("{")
    with pytest.raises(WeightsError, match=r"prompt.json cannot be read"):
        SavedPrompt(folder)


def test_a_failed_save_leaves_the_old_one(engine, folder, monkeypatch):
    """Replaced as a whole, or not at all."""
    calls = []

    def fails(tensors, path):
        calls.append(path)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved_prompt, "save_file", fails)
    with pytest.raises(OSError, match="No space"):
        engine.save_prompt(BOOK[:10], folder)
    assert calls and SavedPrompt(folder).tokens == BOOK
    assert [path.name for path in folder.parent.iterdir()] == ["book"]
