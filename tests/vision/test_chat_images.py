"""Images inside chat messages, by each model's own processor."""

from __future__ import annotations

import numpy as np
import pytest

from specdec import Engine
from specdec.errors import InvalidArgument, PromptTooLong

from helpers import models, processors, vision

NEW = 10


def says(role, *parts):
    return {"role": role, "content": list(parts)}


def image(source):
    return {"type": "image", "image": source}


def text(words):
    return {"type": "text", "text": words}


ONE = [says("user", image(processors.picture(1)), text("what is this ?"))]
TWO = [
    *ONE,
    says("assistant", text("a word")),
    says("user", text("and that"), image(processors.picture(2, 60, 25)), text("?")),
]
NONE = [says("user", text("what is a word ?"))]
GOES_ON = [*TWO, says("assistant", text("one two"))]


@pytest.fixture(scope="module")
def with_processor(pair_of):
    """Made once for each class."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = processors.build(name)
        pair = pair_of(name)
        pair.engine.processor, pair.engine.tokenizer = made[name], made[name].tokenizer
        return pair, made[name]

    return get


def stock(pair, processor, messages):
    """What transformers makes of a conversation."""
    goes_on = messages[-1]["role"] == "assistant"
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt",
        add_generation_prompt=not goes_on, continue_final_message=goes_on,
    )  # fmt: skip
    return pair.text(as_the_model_takes(inputs), NEW)


def as_the_model_takes(inputs):
    return {name: x.double() if name == "pixel_values" else x for name, x in inputs.items()}


@pytest.mark.parametrize("name", vision.ARCHITECTURES)
def test_conversations_are_read_as_transformers_reads_them(with_processor, name):
    pair, processor = with_processor(name)
    chats = [ONE, TWO, NONE, GOES_ON]
    wanted = [stock(pair, processor, chat) for chat in chats]
    found = pair.engine.generate(chats, max_new_tokens=NEW, ignore_eos=True, drafter="ngram")
    assert [x.token_ids for x in found] == wanted
    assert len({tuple(ids) for ids in wanted}) == 4
    alone = pair.engine.generate(TWO, max_new_tokens=NEW, ignore_eos=True, drafter="none")
    assert alone.token_ids == wanted[1]


def test_a_conversation_reads_what_is_new(with_processor):
    pair, processor = with_processor("qwen2.5-vl")
    chat = pair.engine.chat(max_new_tokens=NEW, ignore_eos=True)
    chat.send(ONE[0]["content"])
    second = [image(processors.picture(5)), text("and that ?")]
    said = chat.send(second)
    messages = chat.messages[:-1]
    messages[1] = says("assistant", text(messages[1]["content"]))  # this template knows parts alone
    assert said.token_ids == stock(pair, processor, messages)
    assert messages[2]["content"] == second


def test_frames_of_a_stream_come_in_turns(with_processor):
    """Each with a question; drafts go on from what was seen in the turns before."""
    pair, processor = with_processor("qwen2-vl")
    how = {"budget": 24, "sink": 1, "recent": 1, "num_draft_tokens": 3}
    chat = pair.engine.chat(max_new_tokens=NEW, ignore_eos=True, drafter="livevlm", **how)
    asked = []
    for seed in range(3):
        frames = [image(processors.picture(seed * 2 + i)) for i in range(2)]
        said = chat.send([*frames, text("what is this ?")])
        assert said.stats.num_draft_tokens
        asked = chat.messages[:-1]
        for message in asked:
            if isinstance(message["content"], str):
                message["content"] = [text(message["content"])]
        assert said.token_ids == stock(pair, processor, asked)
    (notes,) = chat._kept.notes
    for x in notes.layers.values():  # of all turns, though each has read what was new
        assert int(x.at.min()) < 8 and int(x.at.max()) >= len(chat._kept.tokens) - NEW - 8


def test_rows_with_images_join_a_stream(with_processor):
    from specdec.decoding.request import Request

    pair, processor = with_processor("llava-next")
    wanted = [stock(pair, processor, chat) for chat in (TWO, ONE)]
    stream = pair.engine.stream(TWO, max_new_tokens=NEW, ignore_eos=True, drafter="ngram")
    settings = {"max_new_tokens": NEW, "ignore_eos": True, "drafter": "ngram"}
    next(stream)
    stream.add(Request.parse(pair.engine, ONE, settings))
    assert [x.token_ids for x in stream.run()] == wanted


def test_templates_that_know_texts_and_parts(with_processor):
    """A content that is a text is shown to the template as it is, where that shows it."""
    pair, processor = with_processor("llava")
    before = processor.chat_template
    processor.chat_template = (
        "{% for m in messages %}{{ m['role'] }} : {% if m['content'] is string %}more "
        "{{ m['content'] }}{% else %}{% for x in m['content'] %}{{ x['text'] }}{% endfor %}"
        "{% endif %}</s> {% endfor %}assistant : "
    )
    try:
        for content in ("what is this ?", [text("what is this ?")]):
            chat = [{"role": "user", "content": content}]
            found = pair.engine.generate(chat, max_new_tokens=NEW, ignore_eos=True)
            assert found.token_ids == stock(pair, processor, chat)
    finally:
        processor.chat_template = before


def test_a_processor_in_the_tokenizers_place(with_processor):
    pair, processor = with_processor("gemma3")
    other = Engine(pair.engine.model, processor)
    assert other.processor is processor and other.tokenizer is processor.tokenizer
    assert other.generate(ONE, max_new_tokens=NEW, ignore_eos=True).token_ids == stock(
        pair, processor, ONE
    )


def test_images_from_files_and_arrays(with_processor, tmp_path):
    pair, _ = with_processor("llava")
    processors.picture(1).save(tmp_path / "one.png")
    wanted = pair.engine.generate(ONE, max_new_tokens=NEW, ignore_eos=True).token_ids
    sources = [
        image(tmp_path / "one.png"), image(str(tmp_path / "one.png")),
        {"type": "image", "path": str(tmp_path / "one.png")},
        image(np.asarray(processors.picture(1))),
    ]  # fmt: skip
    for source in sources:
        chat = [says("user", source, text("what is this ?"))]
        found = pair.engine.generate(chat, max_new_tokens=NEW, ignore_eos=True)
        assert found.token_ids == wanted


def test_a_second_turn_goes_on_from_a_saved_first(with_processor, tmp_path):
    for name in ("llava-next", "qwen3-vl"):
        pair, processor = with_processor(name)
        whole = pair.engine.generate(TWO, max_new_tokens=NEW, ignore_eos=True).token_ids
        pair.engine.save_prompt(ONE, tmp_path / name)
        found = pair.engine.generate(
            TWO, max_new_tokens=NEW, ignore_eos=True, saved_prompt=tmp_path / name
        )
        assert found.token_ids == whole == stock(pair, processor, TWO)
    other = [says("user", image(processors.picture(9)), text("what is this ?"))]
    with pytest.raises(InvalidArgument, match="does not start with saved_prompt"):
        with_processor("llava-next")[0].engine.generate(other, saved_prompt=tmp_path / "llava-next")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (image("no-such.png"), "there is no file no-such.png"),
        (image("https://x.org/a.png"), "nothing is fetched here"),
        (image(7), "is a int: give a PIL image"),
        ({"type": "audio", "audio": "a.wav"}, "of type 'audio'"),
        ({"type": "image"}, "with nothing"),
        ({"type": "image", "image": "a", "detail": "high"}, "'detail'"),
        ({"type": "video", "video": [processors.picture()]}, "torchvision"),
        ({"type": "video", "video": "no-such.mp4"}, "there is no file"),
    ],
)
def test_parts_that_cannot_be_read(with_processor, part, message):
    pair, _ = with_processor("llava")
    with pytest.raises(InvalidArgument, match=message):
        pair.engine.generate([says("user", part, text("what ?"))])


def test_files_that_are_no_images(with_processor, tmp_path, monkeypatch):
    from PIL import Image

    pair, _ = with_processor("llava")
    (tmp_path / "text.png").write_text("no image")
    whole = tmp_path / "whole.png"
    processors.picture().save(whole)
    (tmp_path / "half.png").write_bytes(whole.read_bytes()[:200])
    for name in ("text.png", "half.png"):
        with pytest.raises(InvalidArgument, match=f"{name} cannot be read as an image"):
            pair.engine.generate([says("user", image(tmp_path / name), text("what ?"))])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InvalidArgument, match="is too large"):
        pair.engine.generate([says("user", image(whole), text("what ?"))])


def test_engines_that_cannot_read_images(with_processor):
    pair, processor = with_processor("llava")
    pair.engine.processor = None
    with pytest.raises(InvalidArgument, match="has no processor .* Engine\\(model, processor="):
        pair.engine.generate(ONE)
    blind = Engine(models.build("llama"), processor.tokenizer)
    with pytest.raises(InvalidArgument, match="LlamaForCausalLM reads text alone: load a model"):
        blind.generate(ONE)
    with pytest.raises(InvalidArgument, match="takes no pixel_values: load a model for images"):
        blind.generate(**vision.inputs("llava"))


def test_more_images_than_the_model_has_positions_for(with_processor):
    pair, _ = with_processor("llava")
    chat = [says("user", *[image(processors.picture(1))] * 40, text("what ?"))]
    with pytest.raises(PromptTooLong, match="640 of them of images.*fewer or smaller images"):
        pair.engine.generate(chat)


def test_tensors_that_do_not_fit(pair_of):
    engine = pair_of("qwen2-vl").engine
    row = vision.inputs("qwen2-vl")
    fewer = {**row, "input_ids": row["input_ids"][:, :-5], "mm_token_type_ids": None}
    for given, message in (
        (fewer, "cannot read these images with this text"),
        ({**row, "image_grid_thw": None}, "Qwen2VL"),
        ({**row, "pixel_values": None}, "image_grid_thw was given and no pixel_values"),
        ({**row, "foo": 1}, "foo, which is not understood"),
        ({"pixel_values": row["pixel_values"]}, "without input_ids"),
        ({**row, "input_ids": "what ?"}, "beside a text: give all that the processor returned"),
        ({**row, "pixel_attention_mask": row["attention_mask"]}, "does not take pixel_attention"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            engine.generate({k: v for k, v in given.items() if v is not None})
    for name in ("images", "image", "videos"):
        with pytest.raises(InvalidArgument, match="show images in chat messages"):
            engine.generate("what ?", max_new_tokens=2, **{name: [processors.picture()]})
    assert engine.generate(row, max_new_tokens=2)  # as if nothing had been
