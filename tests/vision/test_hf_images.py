"""`model.generate` with images, beside itself with our adapter."""

from __future__ import annotations

import pytest
import torch

import specdec
from specdec.errors import InvalidArgument

from helpers import vision

NEW = 10


def both(model, inputs, **settings):
    """What transformers returns, and what it returns through the adapter."""
    how = {"max_new_tokens": NEW, "do_sample": False, **settings}
    stock = model.generate(**inputs, **how)
    ours = model.generate(**inputs, **how, custom_generate=specdec.hf.generate, drafter="ngram")
    return stock, ours


@pytest.mark.parametrize("name", vision.ARCHITECTURES)
def test_the_same_text_and_the_model_is_as_it_was(pair_of, name):
    model = pair_of(name).model
    before = [x._attn_implementation for x in (model.config, model.config.vision_config)]
    texts = []
    for case in ({"images": (0,)}, {"images": (1, 0)}, {"images": ()}):
        stock, ours = both(model, vision.inputs(name, 4, **case))
        assert torch.equal(stock, ours)
        texts.append(ours[0, -NEW:].tolist())
    assert texts[0] != texts[1] != texts[2]
    assert before == [x._attn_implementation for x in (model.config, model.config.vision_config)]
    assert model.config.get_text_config()._attn_implementation == before[0]


@pytest.mark.parametrize("name", ["llava", "llava-next", "idefics3", "gemma3", "qwen3-vl"])
def test_batches_and_several_texts_of_a_prompt(pair_of, name):
    model = pair_of(name).model
    model.set_attn_implementation("sdpa")  # eager gives NaN for padding in float64
    rows = [vision.inputs(name, 1), vision.inputs(name, 2, images=(0, 1))]
    drawn = {"do_sample": True, "top_k": 1}  # transformers gives one text of a greedy call
    stock, ours = both(model, vision.padded(rows), num_return_sequences=2, **drawn)
    assert torch.equal(stock, ours)
    model.set_attn_implementation("eager")


def test_video_frames(pair_of):
    for name in vision.TAKES_VIDEO:
        row = vision.inputs(name, 5, images=(0,), frames=2)
        stock, ours = both(pair_of(name).model, row)
        assert torch.equal(stock, ours)


def test_how_the_tower_is_read_is_honoured(pair_of):
    model = pair_of("llava").model
    row = vision.inputs("llava", 6)
    plain, _ = both(model, row)
    stock, ours = both(model, row, vision_feature_layer=-1)
    assert torch.equal(stock, ours) and not torch.equal(stock, plain)


def test_what_cannot_be_honoured_is_refused(pair_of):
    model = pair_of("qwen2-vl").model
    row = vision.inputs("qwen2-vl")
    for name, value in (
        ("position_ids", torch.arange(row["input_ids"].shape[1])[None] + 1),
        ("inputs_embeds", torch.zeros(1, row["input_ids"].shape[1], 32).double()),
    ):
        with pytest.raises((InvalidArgument, ValueError), match=name):
            model.generate(
                **row, **{name: value}, max_new_tokens=2, custom_generate=specdec.hf.generate
            )
    del row["pixel_values"]
    with pytest.raises(InvalidArgument, match="pixel_values"):
        model.generate(**row, max_new_tokens=2, custom_generate=specdec.hf.generate)
