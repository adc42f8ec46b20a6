"""demo-vision: transformers' own LLaVA around the demo, with the tower that ships."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlavaForConditionalGeneration

from specdec.bench.toy import pages
from specdec.bench.toy.settings import Settings
from specdec.bench.toy.talk import messages
from specdec.engine import Engine
from specdec.errors import InvalidArgument, WeightsError
from specdec.loading import demo_vision
from specdec.loading.loader import Loaded, load

from helpers.models import build
from helpers.toy_vision import TOWER, WORDS, tokenizer


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """`load("demo-vision")` with a tiny text model in place of the demo's, and a random tower."""
    import specdec.loading.loader as loader

    text = build("llama", 0, torch.float64, len(tokenizer()))
    random = demo_vision.with_eyes(
        build("llama", 1, vocab_size=len(tokenizer())), tokenizer(), TOWER
    )
    weights = tmp_path / "weights.safetensors"
    save_file({k: x.contiguous() for k, x in demo_vision.eyes(random).items()}, weights)
    monkeypatch.setattr(demo_vision, "WEIGHTS", weights)
    monkeypatch.setattr(demo_vision, "TOWER", TOWER)
    inner = loader.load

    def fake(model: str, *args: object, **options: object) -> Loaded:
        if model == "demo":
            return Loaded(text, tokenizer(), "tiny", {})
        return inner(model, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loader, "load", fake)
    return fake("demo-vision", dtype="float64", device="cpu")


def test_images_in_a_chat_are_read_as_transformers_reads_them(loaded: Loaded) -> None:
    assert type(loaded.model) is LlavaForConditionalGeneration
    assert not any(x.is_meta for x in (*loaded.model.parameters(), *loaded.model.buffers()))
    assert not any(x.requires_grad for x in loaded.model.parameters())
    picture = pages.page(WORDS, Random(0))
    chat = messages(picture, 0)
    given = loaded.processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    given["pixel_values"] = given["pixel_values"].double()
    length = given["input_ids"].shape[1]
    want = loaded.model.generate(
        **given, max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=0
    )[0, length:].tolist()  # fmt: skip
    engine = Engine(loaded.model, loaded.tokenizer, loaded.processor)
    for drafter in ("none", "ngram"):
        found = engine.generate(chat, drafter=drafter, max_new_tokens=12, eos_token_id=[])
        assert found.token_ids == want
    blank = [{"role": "user", "content": picture.turns[0][0]}]
    assert engine.generate(blank, max_new_tokens=12, eos_token_id=[]).token_ids != want


def test_names_of_the_text_models_weights_are_those_of_llava(loaded: Loaded) -> None:
    text = build("llama", 0, torch.float64, len(tokenizer()))
    inside = {
        re.sub(r"^model\.", "model.language_model.", name): x
        for name, x in text.state_dict().items()
    }
    state = loaded.model.state_dict()
    assert inside.keys() == state.keys() - demo_vision.eyes(loaded.model).keys()
    assert all(torch.equal(state[name], x) for name, x in inside.items())


def test_what_it_cannot_do_is_said() -> None:
    with pytest.raises(InvalidArgument, match="device_map"):
        load("demo-vision", device_map="auto")


def test_a_tower_that_is_missing_is_named(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    import specdec.loading.loader as loader

    monkeypatch.setattr(demo_vision, "WEIGHTS", Path("nowhere.safetensors"))
    with pytest.raises(WeightsError, match="nowhere"):
        loader.load("demo-vision", device="cpu")


def test_the_tower_that_ships_is_whole() -> None:
    text = build("llama", 0, torch.float32, len(tokenizer()), hidden_size=576)
    model = demo_vision.with_eyes(text, tokenizer(), demo_vision.TOWER)
    tensors = demo_vision.read(demo_vision.WEIGHTS)
    demo_vision.put_in(model, tensors, "shipped")
    for name, x in demo_vision.eyes(model).items():
        assert torch.equal(x, tensors[name]) and bool(torch.isfinite(x).all())
    assert demo_vision.WEIGHTS.stat().st_size < 25e6


@pytest.mark.weights
def test_the_tower_that_ships_reads_words() -> None:
    """Of the words of pages that nothing learned from, as nearest embedding of the demo's own."""
    model, words = load("demo-vision", dtype="float32", device="cpu")[:2]
    known = pages.vocabulary(words, Settings().words)
    embedding = model.get_input_embeddings().weight
    ids = words.convert_tokens_to_ids(["Ġ" + word for word in known])
    draw, right, total = Random("held out"), 0, 0
    for _ in range(6):
        page = pages.page(known, draw, Settings().fonts)
        pixels = demo_vision.image_processor()(page.image, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            seen = model.model.get_image_features(pixels).pooler_output[0]
        near = torch.cdist(seen, embedding[ids]).argmin(-1).tolist()
        for one, said in zip(near, page.says, strict=True):
            right += said == known[one]
            total += said in known
    assert right / total > 0.85
