"""What `bench images` counts, and the pictures of `draw-pictures`."""

from __future__ import annotations

import json

import pytest

from specdec import Engine
from specdec.bench.image_branches import conversations, measure, table
from specdec.bench.toy.pages import READ
from specdec.bench.toy.pairs import FILE, draw_pairs
from specdec.drafts.specvlm.training.pairs import gather_pairs, split_pairs
from specdec.errors import InvalidArgument
from specdec.loading import demo_vision
from specdec.model.target import Target

from helpers import longspec_models, models, toy_vision


def test_acceptance_is_that_of_generation_and_memory_that_of_an_image(tmp_path):
    school = toy_vision.school()
    longspec_models.image_checkpoint(Target(school.model)).save(tmp_path)
    engine = Engine(school.model, processor=demo_vision.processor(school.tokenizer))
    found = measure(engine, str(tmp_path), [1, 2], 1, 8, 6)
    for cell in found["cells"]:
        (chat,) = conversations(engine.tokenizer, cell["images"], 1)
        for way in ("whole", "pool", "gate"):
            options = {"image_branch": way, "image_tokens": 6} if way != "whole" else {}
            out = engine.generate(
                chat, drafter="specvlm" if options else "longspec", draft_model=tmp_path,
                max_new_tokens=8, num_draft_tokens=4, **options,
            )  # fmt: skip
            length = len(out.token_ids) / out.stats.num_spec_steps
            assert cell["ways"][way]["acceptance_length"] == pytest.approx(length, abs=1e-3)
        entry = 2 * 2 * 8 * 4 + 4  # k and v of two heads of 8 in float32, and a weight
        kept = {way: x["bytes"] / entry for way, x in cell["ways"].items() if way != "whole"}
        assert kept["prune"] == kept["pool"] == 6 and kept["text"] == 0 and kept["resampler"] == 2
        assert sum(cell["gate"].values()) == cell["images"]
    assert table(found).count("\n") == 5


def test_only_models_that_read_images_are_measured():
    with pytest.raises(InvalidArgument, match="reads no images"):
        measure(Engine(models.build("llama")), None, [1], 1, 4, 4)


def test_drawn_pairs_are_read_as_pairs(tmp_path):
    words = (*toy_vision.WORDS, "the", "and", "for")
    for name in ("one", "two"):
        draw_pairs(tmp_path / name, words, 30, 3, lambda done, total: None)
    first, second = ((tmp_path / name / FILE).read_text() for name in ("one", "two"))
    assert first == second and len({json.loads(x)["question"] for x in first.splitlines()}) > 3
    pairs = gather_pairs([tmp_path / "one" / FILE])
    assert len(pairs) == 30 and 1 < max(len(pair.images) for pair in pairs) <= 16
    assert all(split_pairs(pairs))
    with pytest.raises(InvalidArgument, match="pairs.jsonl"):
        draw_pairs(tmp_path / "one", words, 3, 3, lambda done, total: None)
    draw_pairs(tmp_path / "pages", words, 9, 3, lambda done, total: None, 1.0, 0.0)
    for pair in gather_pairs([tmp_path / "pages" / FILE]):
        assert len(pair.images) == 1 and pair.question in READ
    with pytest.raises(InvalidArgument, match="--several 2"):
        draw_pairs(tmp_path / "none", words, 9, 3, lambda done, total: None, 1.0, 2.0)
