"""A run that trains a SpecVLM: from pairs to a checkpoint that drafts, resumed, and refused."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from specdec import Engine
from specdec.bench.image_branches import measure
from specdec.drafts.longspec.checkpoint import Checkpoint
from specdec.drafts.longspec.training import run
from specdec.drafts.longspec.training.progress import FILE
from specdec.drafts.specvlm.compressor import BRANCHES, compressor_of
from specdec.drafts.specvlm.prepared import SHIPPED
from specdec.drafts.specvlm.training.pairs import QUESTION, gather_pairs, split_pairs
from specdec.drafts.specvlm.training.settings import ImageSettings
from specdec.errors import InvalidArgument, WeightsError
from specdec.loading import demo_vision
from specdec.loading.loader import Loaded

from helpers import toy_vision
from helpers.command import run as command

SETTINGS = {
    "steps": 8, "text_steps": 2, "batch_tokens": 64, "rows": 3, "length": 24, "long": 32,
    "first_lessons": 1, "steps_per_lesson": 4, "steps_per_image_lesson": 2, "remember": 2,
    "draft_vocab": 0, "window": 16, "rate": 0.02, "vector_rate": 0.01, "image_rows": 3,
    "answer_tokens": 8, "image_tokens": 5, "stride": 2,
}  # fmt: skip


@pytest.fixture
def loaded():
    """A tiny model for images, which answers at length, as `load` would give it."""
    school = toy_vision.school()
    school.model.generation_config = school.text.generation_config
    processor = demo_vision.processor(school.tokenizer)
    return Loaded(school.model, school.tokenizer, "a toy", processor=processor)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A JSONL file of a few pictures, one and two a question."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = []
    for i in range(6):
        Image.new("RGB", (64, 48), (40 * i, 90, 200)).save(folder / f"{i}.png")
        rows.append({"images": [f"{j}.png" for j in {i, i // 2}], "question": "a of to?"})
    rows[1] |= {"answer": "it is in it"}
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "pairs.jsonl"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i in range(3):
        (folder / f"{i}.md").write_text(f"it is a part of {i} to it\n" * 60)
    return folder


@pytest.fixture
def train(loaded, pairs, text, monkeypatch):
    monkeypatch.setattr(run, "load", lambda *_, **__: loaded)

    def go(out, stop_after=None, **changes):
        pace = {"examine_minutes": 60.0, "held_out": 2, "stop_after": stop_after}
        settings = {**SETTINGS, **changes}
        return run.train(
            "toy", [text], out, settings, pace, dtype="float32", mixed_precision="no",
            images=[pairs],
        )  # fmt: skip

    return go


def test_a_run_learns_goes_on_where_it_was_and_drafts(train, loaded, tmp_path):
    assert train(tmp_path / "whole") >= 1.0
    for stop in (3, 3, 3):
        train(tmp_path / "cut", stop)
    whole, cut = (load_file(tmp_path / name / FILE) for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and any("resampler" in name for name in whole)
    for name, x in whole.items():
        torch.testing.assert_close(x, cut[name], rtol=0, atol=0, msg=name)
    log = [json.loads(x) for x in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert {*log[-1]["images"]} == {*BRANCHES, "gate", "whole"}
    with pytest.raises(InvalidArgument, match="other settings"):
        train(tmp_path / "cut", image_tokens=4)

    engine = Engine(loaded.model, processor=loaded.processor)
    picture = {"type": "image", "image": Image.new("RGB", (30, 20), (9, 200, 9))}
    chat = [{"role": "user", "content": [picture, {"type": "text", "text": "a of to?"}]}]
    plain = engine.generate(chat, drafter="none", max_new_tokens=12)
    for drafter, options in (
        ("specvlm", {}), ("specvlm", {"image_branch": "convolution"}), ("longspec", {}),
    ):  # fmt: skip
        out = engine.generate(
            chat, drafter=drafter, draft_model=tmp_path / "whole", max_new_tokens=12, **options
        )
        assert out.token_ids == plain.token_ids and out.stats.num_draft_tokens > 0


def test_what_is_learned_alone_is_changed_alone(train, tmp_path):
    """A run from another checkpoint takes its block, and changes of it what it was told to."""
    train(tmp_path / "first", 1)
    train(tmp_path / "second", 4, start=str(tmp_path / "first"), learn="cross")
    first, second = (Checkpoint.load(tmp_path / name) for name in ("first", "second"))
    begun = load_file(tmp_path / "second" / FILE)
    changed = {
        name for name, x in first.weights.items()
        if not name.startswith("images.")
        and not torch.equal(x, begun[f"block.block.{name}"].bfloat16())
    }  # fmt: skip
    queries = {"cross_q.weight", "cross_token.weight", "cross_token.bias"}
    assert changed == {*queries, "cross_o.weight", "cross_norm.weight"}
    assert second.parts == first.parts and second.base is None


def test_the_checkpoint_that_ships(loaded):
    """It has a block of its own, reads the layer where demo-vision copies, and is refused for
    another target."""
    shipped = Checkpoint.load(SHIPPED)
    stored = load_file(SHIPPED / "model.safetensors")
    assert sum(x.nbytes for x in stored.values()) < 12e6
    assert shipped.base is None and shipped.sizes.kv_layer == 18 and shipped.sizes.token_query
    made = compressor_of(shipped)
    assert made is not None and made.sizes.tokens == 64
    engine = Engine(loaded.model, processor=loaded.processor)
    with pytest.raises(InvalidArgument, match="trained for another target"):
        engine.generate([1, 2, 3], drafter="specvlm", max_new_tokens=3)


@pytest.mark.slow
@pytest.mark.weights
def test_what_ships_reads_pages_that_no_training_has_seen():
    """A floor far below what was measured (docs/specvlm.md), and far above one that does not look
    at the image."""
    engine = Engine.from_pretrained("demo-vision", device="cpu")
    (cell,) = measure(engine, None, [1], 4, 24, None)["cells"]
    gate, blind = (cell["ways"][way]["acceptance_length"] for way in ("gate", "text"))
    assert gate > 1.5 and gate > blind + 0.2


def test_images_of_a_checkpoint_that_do_not_fit_are_damage(train, tmp_path, loaded):
    train(tmp_path / "made", 1)
    made = Checkpoint.load(tmp_path / "made")
    made.parts["images"]["queries"] = 3
    made.save(tmp_path / "made")
    engine = Engine(loaded.model, processor=loaded.processor)
    with pytest.raises(WeightsError, match="image part"):
        engine.generate([1], drafter="specvlm", draft_model=tmp_path / "made", max_new_tokens=3)


BAD = [
    ('{"image": "0.png", "colour": 1}', "colour"),
    ('{"image": "nowhere.png"}', "nowhere.png"),
    ('{"question": "What?"}', "give image"),
    ('{"image": "0.png", "question": 3}', "not text"),
    ('{"image": "0.png", "conversations": [3]}', "conversations"),
    ("[1]", "no object"),
    ("{", "no JSON"),
]


@pytest.mark.parametrize("line, told", BAD)
def test_lines_that_are_not_understood_are_named(pairs, tmp_path, line, told):
    file = pairs.parent / "bad.jsonl"
    file.write_text(pairs.read_text() + line + "\n")
    with pytest.raises(InvalidArgument, match=told) as error:
        gather_pairs([file])
    assert "line 7" in str(error.value)


def test_pairs_of_folders_and_of_llava(pairs, tmp_path):
    llava = {"id": "x", "image": "0.png", "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "Green."},
        {"from": "human", "value": "More?"},
    ]}  # fmt: skip
    file = pairs.parent / "llava.jsonl"
    file.write_text(json.dumps(llava) + "\n" + json.dumps({"image": "1.png"}))
    first, second = gather_pairs([file])
    assert (first.question, first.answer) == ("What is it?", "Green.")
    assert (second.question, second.answer) == (QUESTION, None)
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("one\n")
    with pytest.raises(InvalidArgument, match="b.txt"):
        gather_pairs([tmp_path])
    (tmp_path / "b.txt").write_text("two\n")
    found = gather_pairs([tmp_path])
    assert [pair.answer for pair in found] == ["one", "two"]
    kept, held_out = split_pairs(found)
    assert len(kept) == len(held_out) == 1 and {*kept, *held_out} == {*found}
    with pytest.raises(InvalidArgument, match="one image"):
        split_pairs([found[0], found[0]])
    for nothing in (tmp_path / "nowhere", tmp_path / "a.txt"):
        with pytest.raises(InvalidArgument):
            gather_pairs([nothing])


def test_settings_are_checked():
    for name in ("image_rows", "answer_tokens", "image_tokens", "stride", "queries"):
        with pytest.raises(InvalidArgument, match=name):
            ImageSettings(**{name: 0})
    with pytest.raises(InvalidArgument, match="text_steps"):
        ImageSettings(steps=10, text_steps=10)
    with pytest.raises(InvalidArgument, match="image_start"):
        ImageSettings(image_start=1.5)
    with pytest.raises(InvalidArgument, match="convolution"):
        ImageSettings(favourite="convolutions")
    for first in (0.0, 0.6):
        settings = ImageSettings(steps=30, text_steps=10, image_start=first)
        shares = [settings.image_share(step) for step in range(30)]
        assert shares[:10] == [0.0] * 10 and shares[10] > first and shares[-1] == 1.0
        assert shares == sorted(shares)
        assert settings.image_steps(25) == pytest.approx(sum(shares[:25]))
    done = command("train-drafter", "--model", "x", "--out", "o", "--image-rows", "3")
    assert done.exit_code == 2 and "--images" in done.output
