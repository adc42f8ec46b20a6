"""The toy that sees: what its pictures say, where its tower begins, and how it is trained."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from transformers import CLIPVisionConfig, CLIPVisionModel

from specdec.bench.toy import beginning, pages, scenes, stages
from specdec.bench.toy.easy_vqa import EasyVqa
from specdec.bench.toy.examine import examine
from specdec.bench.toy.pictures import Pictures
from specdec.bench.toy.talk import NO_ANSWER, Talk, messages, talk
from specdec.bench.toy.trainer import Trainer
from specdec.errors import InvalidArgument, WeightsError
from specdec.loading import demo_vision

from helpers import toy_vision
from helpers.toy_vision import WORDS, school


@pytest.mark.parametrize("font", pages.FONTS)
def test_tokens_of_a_page_say_its_words_where_they_stand(font: str) -> None:
    draw = Random(3)
    for _ in range(10):
        page = pages.page(WORDS, draw, (font,))
        said = [word for word in page.says if word in WORDS]
        assert " ".join(said) == page.turns[0][1] and len(page.says) == scenes.TOKENS
        pixels = np.asarray(page.image.convert("L"), dtype=float)
        paper = np.median(pixels)
        for place, word in enumerate(page.says):
            row, column = divmod(place, pages.PER_LINE)
            patch = pixels[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
            if word in WORDS:  # a word's first letters are ink
                assert abs(patch - paper).max() > 60, (place, word)
        last = pixels[-12:]  # of the frame, into which only tails of letters reach
        assert (abs(last - paper) < 60).all()


def test_scenes_hold_as_many_shapes_as_they_say() -> None:
    draw = Random(5)
    seen = set()
    for _ in range(60):
        scene = scenes.scene(draw)
        said = dict(part.split(" ", 1) for part in scene.says[-8:-1])
        pixels = np.asarray(scene.image, dtype=int)
        away = abs(pixels - pixels[0, 0]).max(-1) > 12
        labels, count = ndimage.label(away)
        sizes = ndimage.sum(away, labels, range(1, count + 1))
        assert scenes.NUMBERS[int((np.asarray(sizes) > 30).sum())] == said["all"]
        inks = [pixels[labels == i][len(pixels[labels == i]) // 2] for i in range(1, count + 1)]
        for colour in {said["c1"], said["c2"]} - {"none"}:
            assert any(abs(ink - np.asarray(scenes.COLOURS[colour])).max() <= 8 for ink in inks)
            assert colour in scene.turns[-1][1]
        seen.add(said["all"])
    assert seen == set(scenes.NUMBERS[1:])


def test_a_step_has_pictures_of_its_own_which_are_the_same_again() -> None:
    first, again, other = (Pictures(WORDS, None, 0).batch(step, 6) for step in (1, 1, 2))
    assert [x.turns for x in first] == [x.turns for x in again] != [x.turns for x in other]
    assert [x.image.tobytes() for x in first] == [x.image.tobytes() for x in again]
    assert [x.category for x in first] == ["reading"] * 3 + ["counting"] * 3


def test_conversations_have_one_picture_or_several() -> None:
    pictures = Pictures(WORDS, None, 0)
    steps = [pictures.conversations(step, 8) for step in range(100)]
    counts = {len(rows[0].shown): len(rows) for rows in steps}
    assert counts == {1: 8, 2: 4, 3: 2, 4: 2, 16: 1}
    assert all(len(one.shown) == len(rows[0].shown) for rows in steps for one in rows)
    asked = {one.category for rows in steps if len(rows) == 1 for one in rows}
    assert asked == {"reading", "counting"}
    again = pictures.conversations(7, 8)
    assert [x.turns for x in again] == [x.turns for x in steps[7]]


def test_easy_vqa_is_read_out_of_its_wheel(tmp_path: Path) -> None:
    wheel = toy_vision.easy_vqa(tmp_path / "easy.whl")
    easy = EasyVqa(wheel, "train")
    assert easy.known == {0: ("red", "circle")}  # the other picture's colour nobody tells
    lesson = easy.lesson(Random(0))
    assert lesson.image.size == (128, 128) and lesson.says[-6:-4] == ("c1 red", "s1 circle")
    assert set(lesson.turns) <= set(easy.turns[0])
    with pytest.raises(InvalidArgument, match="pip download"):
        EasyVqa(tmp_path / "nothing.whl", "train")


def test_heads_begin_with_a_look_at_their_neighbours() -> None:
    torch.manual_seed(0)
    config = CLIPVisionConfig(**demo_vision.TOWER, attn_implementation="eager")
    tower = CLIPVisionModel(config).eval()
    pictures = Pictures(WORDS, None, 0).batch("x", 40)
    pixels = demo_vision.image_processor()([x.image for x in pictures], return_tensors="pt")
    beginning.begin(tower, pixels["pixel_values"])
    with torch.inference_mode():
        looks = tower(pixels["pixel_values"][:4], output_attentions=True).attentions
    for layer in looks:
        for head, offset in enumerate(beginning.OFFSETS):
            places = torch.arange(8, 56)
            most = layer[:, head, 1 + places].argmax(-1) - 1
            assert (most == places + offset).float().mean() > 0.9, (head, offset)


def test_a_conversation_is_what_the_processor_makes_of_it() -> None:
    taught = school()
    processor = demo_vision.processor(taught.tokenizer)
    several = [
        one
        for step in range(12)
        for one in taught.pictures.conversations(f"talk {step}", 4)
        if 1 < len(one.shown) < 16
    ]
    assert any(x.before[-1].turns for x in several) and any(not x.before[0].turns for x in several)
    for picture in (*taught.pictures.batch("talk", 4), *several):
        made = talk([picture], taught.tokenizer, scenes.TOKENS)
        for turn, (_, answer) in enumerate(picture.turns):
            given = processor.apply_chat_template(
                messages(picture, turn), add_generation_prompt=True, tokenize=True,
                return_dict=True, return_tensors="pt",
            )  # fmt: skip
            asked = given["input_ids"][0].tolist()
            assert made.ids[0, : len(asked)].tolist() == asked
            answered = taught.tokenizer(answer, add_special_tokens=False)["input_ids"]
            labels = made.labels[0, len(asked) : len(asked) + len(answered)].tolist()
            assert labels == answered
        assert int((made.labels != NO_ANSWER).sum()) >= len(picture.turns)


def test_what_is_judged_right_is_what_transformers_generates() -> None:
    taught = school()
    picture = taught.pictures.batch("judged", 1)[0]
    processor = demo_vision.processor(taught.tokenizer)
    given = processor.apply_chat_template(
        messages(picture, 0), add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
    length = given["input_ids"].shape[1]
    ids = taught.model.generate(**given, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    labels = ids.clone()
    labels[:, :length] = NO_ANSWER
    with torch.inference_mode():
        image = demo_vision.image_token_id(taught.tokenizer)
        written = Talk(ids, torch.ones_like(ids), labels)
        judged = written.judge(taught.text, image, taught.see([picture]))
        assert bool(judged.right.all()) and int(judged.asked.sum()) == 6
        labels[:, -1] = (ids[:, -1] + 1) % 256
        judged = written.judge(taught.text, image, taught.see([picture]))
    assert not judged.right[0, -1] and bool(judged.right[0, :-1].all())


def test_a_run_goes_on_where_it_left_off(tmp_path: Path) -> None:
    def run(out: Path, calls: int, stop_after: int | None) -> dict[str, torch.Tensor]:
        for _ in range(calls):
            taught = school()  # as if in another process
            trainer = Trainer(out, {"seed": 0}, lambda *row: rows.append(row))
            done = trainer.run(stages.speech(taught, 4, 2, 1e-2), stop_after)
            if done:
                trainer.run(stages.sight(taught, 4, 4, 1e-3), stop_after)
        return {**demo_vision.eyes(taught.model), "learned": taught.language.learned.data}

    rows: list[Any] = []
    once = run(tmp_path / "once", 1, None)
    told = [row[:3] for row in rows]
    assert told == [(name, i, 4) for name in ("language", "tower") for i in range(1, 5)]
    assert all(torch.isfinite(torch.tensor(row[3]["loss"])) for row in rows)
    again = run(tmp_path / "again", 4, 2)
    assert once.keys() == again.keys()
    assert all(torch.equal(once[name], again[name]) for name in once)
    log = (tmp_path / "again" / "tower" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2, 3, 4]
    with pytest.raises(InvalidArgument, match="seed"):
        Trainer(tmp_path / "once", {"seed": 1}, print).run(stages.speech(school(), 4, 2, 1e-2))


def test_learning_moves_eyes_and_language_alone() -> None:
    taught = school()
    before = {name: x.clone() for name, x in taught.text.state_dict().items()}
    for stage in (stages.speech(taught, 1, 2, 1e-2), stages.answers(taught, 1, 2, 1e-2)):
        value, _ = stage.loss(0)
        value.backward()
        assert all(x.grad is not None for x in stage.learned.values())
    assert all(x.grad is None for x in taught.text.parameters())
    assert all(torch.equal(x, before[name]) for name, x in taught.text.state_dict().items())


def test_figures_of_an_examination_are_shares(tmp_path: Path) -> None:
    taught = school()
    figures = examine(
        taught, demo_vision.processor(taught.tokenizer), toy_vision.easy_vqa(tmp_path / "w.whl"), 2
    )
    wanted = {"counting", "describing", "colours and shapes", "easy-vqa", "easy-vqa, majority"}
    assert wanted <= set(figures) and {f"words, {font}" for font in pages.FONTS} <= set(figures)
    assert all(0 <= value <= 1 for value in figures.values())


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    taught = school()
    tensors = demo_vision.eyes(taught.model)
    name = "model.multi_modal_projector.linear_1.weight"
    with pytest.raises(WeightsError, match=name):
        demo_vision.put_in(taught.model, {**tensors, name: tensors[name][1:]}, "x")
    with pytest.raises(WeightsError, match="missing"):
        demo_vision.read(tmp_path / "nothing.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="bad"):
        demo_vision.read(tmp_path / "bad.safetensors")
