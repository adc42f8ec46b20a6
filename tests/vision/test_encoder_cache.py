"""A vision tower sees each image once."""

from __future__ import annotations

import copy

import pytest
import torch

from specdec import Engine
from specdec.vision.encoder_cache import EncoderCache
from specdec.vision.reading import read_processed

from helpers import processors, vision
from helpers.adapter import characters
from helpers.models import VOCAB

NEW = 8
_TOWERS = ("vision_tower", "visual", "vision_model")


class Looking:
    """How many images, tiles or videos a model's tower has been given, one at a time."""

    def __init__(self, model):
        tower = next(x for name in _TOWERS if (x := getattr(model.model, name, None)) is not None)
        self.calls = 0
        tower.register_forward_pre_hook(self.note)

    def note(self, *_):
        self.calls += 1

    def since(self):
        calls, self.calls = self.calls, 0
        return calls


@pytest.mark.parametrize("name", vision.ARCHITECTURES)
def test_what_was_seen_is_not_read_again(name):
    model = vision.build(name, seed=1)
    stock, engine = copy.deepcopy(model), Engine(model, characters(VOCAB))
    looking = Looking(model)
    tiles = 3 if name in ("idefics3", "smolvlm", "internvl") else 1  # of the second image
    rows = [vision.inputs(name, 3, images=which) for which in ((0,), (0, 1))]
    batch = vision.padded(rows) if name == "gemma3" else rows
    wanted = [
        stock.generate(**row, max_new_tokens=NEW, do_sample=False)[0, row["input_ids"].shape[1] :]
        for row in rows
    ]
    wanted = [x.tolist() for x in wanted]
    for row, text, new in (
        (rows[0], wanted[0], 1),
        (rows[1], wanted[1], tiles),
        (rows[0], wanted[0], 0),
    ):
        (found,) = engine.generate(row, max_new_tokens=NEW, ignore_eos=True)
        assert (found.token_ids, looking.since()) == (text, new)
    both = engine.generate(batch, max_new_tokens=NEW, ignore_eos=True)
    assert ([x.token_ids for x in both], looking.since()) == (wanted, 0)
    with torch.no_grad():  # another tower, which says other things
        next(p for n, p in model.named_parameters() if "vision" in n or "visual" in n).add_(0.5)
    engine.generate(rows[1], max_new_tokens=1)
    assert looking.since() == 1 + tiles
    methods = ("get_image_features", "get_video_features")
    assert not any(x in vars(model.model) for x in methods)


@pytest.mark.parametrize("name", vision.TAKES_VIDEO)
def test_videos_too(name):
    model = vision.build(name, seed=1)
    looking, cache = Looking(model), EncoderCache()
    row = vision.inputs(name, 5, images=(0,), frames=3)
    first, again = (read_processed(row, model, cache)[0] for _ in range(2))
    assert looking.since() == 2
    for a, b in zip(first.spans, again.spans, strict=True):
        assert torch.equal(a.read(), b.read()) and a.identity == b.identity


def test_a_turn_of_a_chat_sees_its_own_images():
    processor = processors.build("qwen2.5-vl")
    model = vision.build("qwen2.5-vl", seed=1)
    engine, looking = Engine(model, processor.tokenizer, processor), Looking(model)
    chat = engine.chat(max_new_tokens=NEW, ignore_eos=True)

    def says(*sources):
        images = [{"type": "image", "image": x} for x in sources]
        return [*images, {"type": "text", "text": "what is this ?"}]

    chat.send(says(processors.picture(1)))
    assert looking.since() == 1
    chat.send(says(processors.picture(2, 60, 25), processors.picture(1)))
    assert looking.since() == 1  # the one of before is there again, too
    chat.send("and that ?")
    assert looking.since() == 0
    said = chat.messages[:-1]
    fresh = Engine(copy.deepcopy(vision.build("qwen2.5-vl", seed=1)), None, processor)
    whole = fresh.generate(said, max_new_tokens=NEW, ignore_eos=True)
    assert whole.token_ids == chat.last.token_ids


@pytest.mark.parametrize("name", ["llava", "idefics3", "qwen3-vl", "internvl", "llava-next"])
def test_an_image_is_the_same_in_any_company(name):
    """In float32, where towers round otherwise in a batch."""
    model = vision.build(name, seed=1).float()

    def read(*images):
        row = vision.inputs(name, 3, images=images)
        row["pixel_values"] = row["pixel_values"].float()
        return read_processed(row, model)[0].spans[0].read()

    alone, beside = read(0), read(0, 1, 0, 1)
    assert torch.equal(alone, beside[: len(alone)])


def test_the_oldest_goes_first():
    model = vision.build("llava", seed=1)
    looking = Looking(model)
    rows = [vision.inputs("llava", seed) for seed in range(3)]
    one = 16 * 32 * 8  # bytes of an image
    cache = EncoderCache(limit=2 * one)

    def seen(i):
        read_processed(rows[i], model, cache)
        return looking.since()

    assert [seen(i) for i in (0, 1, 0, 2, 0, 1)] == [1, 1, 0, 1, 0, 1]
    assert cache.nbytes == 2 * one
    small = EncoderCache(limit=one - 1)
    read_processed(rows[0], model, small)
    assert small.nbytes == 0


def test_settings_of_the_tower_tell_apart():
    model, cache = vision.build("llava", seed=1), EncoderCache()
    model.config.vision_feature_layer = -1
    row = vision.inputs("llava")
    first = read_processed(row, model, cache)[0].spans[0].read()
    model.config.vision_feature_layer = -2
    assert not torch.equal(first, read_processed(row, model, cache)[0].spans[0].read())
