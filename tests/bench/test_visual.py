"""Suite `visual`: conversations with pictures through the runner, and against transformers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from specdec.bench import runner
from specdec.bench.contestants import length, text_alone
from specdec.bench.report.categories import category_table
from specdec.bench.report.tables import markdown
from specdec.bench.suites import workloads_of
from specdec.engine import Engine
from specdec.errors import InvalidArgument
from specdec.loading import demo_vision
from specdec.model.stock import stock_text

from helpers.models import build
from helpers.toy_vision import TOWER, tokenizer

CATEGORIES = ["reading", "describing", "counting", "multi-turn", "4 images"]


@pytest.fixture(scope="module")
def engine() -> Engine:
    words = tokenizer()
    text = build("llama", 3, vocab_size=len(words), max_position_embeddings=512)
    model = demo_vision.with_eyes(text, words, TOWER).double()
    return Engine(model, words, demo_vision.processor(words))


def test_each_category_has_pictures_and_takes_its_turn(engine: Engine) -> None:
    found = workloads_of("visual", engine.tokenizer, 512)
    assert [x.summary for x in found] == CATEGORIES * 8
    assert len({x.name for x in found}) == len(found)
    image = demo_vision.image_token_id(engine.tokenizer)
    for workload in found:
        asked: Any = workload.asked(engine)
        images = {"multi-turn": 2, "4 images": 4}.get(workload.summary, 1)
        assert len(asked.spans) == images and asked.ids.count(image) == 64 * images
        assert length(asked) == len(asked.ids)
    again = workloads_of("visual", engine.tokenizer, 512)
    assert [x.asked(engine).keys for x in again] == [x.asked(engine).keys for x in found]


def test_everyone_writes_the_text_of_plain_decoding_and_of_transformers(engine: Engine) -> None:
    found = workloads_of("visual", engine.tokenizer, 512, limit=5)
    plan = runner.Plan(found, repeats=1, max_new_tokens=6)
    document = runner.run(engine, "tiny", "visual", plan, ["ngram"], [])
    assert [row["summary"] for row in document["workloads"]] == CATEGORIES
    torch_model = demo_vision.with_eyes(
        build("llama", 3, vocab_size=len(tokenizer()), max_position_embeddings=512),
        tokenizer(),
        TOWER,
    ).double()
    torch_model.load_state_dict(
        {k: x for k, x in demo_vision.eyes(engine.model).items()}, strict=False
    )
    for row, workload in zip(document["workloads"], found, strict=True):
        assert row["contestants"]["ngram"]["tokens_equal_to_plain"] == 6
        want = stock_text(
            torch_model, workload.asked(engine), (), max_new_tokens=6, do_sample=False
        )
        assert row["token_ids"] == want


def test_categories_are_summed_up(engine: Engine) -> None:
    found = workloads_of("visual", engine.tokenizer, 512, limit=7)
    plan = runner.Plan(found, repeats=1, temperatures=(0.0, 1.0), max_new_tokens=6)
    document = runner.run(
        engine, "tiny", "visual", plan, ["streaming"], [], {"budget": 60, "num_draft_tokens": 3}
    )
    head, row = category_table(document)
    kinds = [f"{kind}, T={t}" for kind in CATEGORIES[:2] for t in (0, 1)]
    assert head[1:5] == kinds and len(head) == 12 and head[-1] == "texts"
    assert row[0] == "streaming" and row[-1] == "14/14 equal"
    rows = [x for x in document["workloads"] if x["summary"] == "reading" and not x["temperature"]]
    stats = [x["contestants"]["streaming"]["stats"] for x in rows]
    assert len(stats) == 2
    drafts = sum(x["num_draft_tokens"] for x in stats)
    kept = sum(x["num_accepted_draft_tokens"] for x in stats)
    passes = sum(x["num_spec_steps"] for x in stats)
    assert row[1].startswith(f"{kept / drafts:.2f} ({12 / passes:.2f}), ")
    text = markdown(document)
    assert f"| {' | '.join(row)} |" in text and f"| {' | '.join(head)} |" in text
    document["workloads"] = document["workloads"][:1]
    assert not category_table(document)


def test_the_table_in_the_docs_is_that_of_the_stored_run() -> None:
    """Without its speeds, which were measured beside others."""
    root = next(x for x in Path(__file__).resolve().parents if (x / "pyproject.toml").exists())
    page = (root / "docs/images.md").read_text()
    document = json.loads((root / "bench/results/visual/result.json").read_text())
    rows = category_table(document)[1:]
    for row in rows:
        assert f"| {' | '.join(re.sub(r', [0-9.]+x$', '', cell) for cell in row)} |" in page
    assert all(row[-1] == "20/20 equal" for row in rows) and len(rows) >= 14


def test_who_takes_no_images_says_so(engine: Engine) -> None:
    workload = workloads_of("visual", engine.tokenizer, 512)[0]
    blind = Engine(build("llama", 3, vocab_size=len(tokenizer())), tokenizer())
    with pytest.raises(InvalidArgument, match="reads text alone"):
        workload.asked(blind)
    with pytest.raises(InvalidArgument, match="llama.cpp"):
        text_alone(workload.asked(engine), "llama.cpp")
    assert text_alone([1, 2], "llama.cpp") == [1, 2]
    with pytest.raises(InvalidArgument, match="no use for --contexts"):
        workloads_of("visual", engine.tokenizer, 512, contexts=[100])
