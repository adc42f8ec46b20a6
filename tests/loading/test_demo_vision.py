"""demo-vision: transformers' own LLaVA around the demo, with the tower that ships."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlavaForConditionalGeneration

from specdec.bench.toy import pages
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
    inside = {demo_vision.inside(name): x for name, x in text.state_dict().items()}
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
